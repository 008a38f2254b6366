"""The commands that write slots and words of whole data sets: files, links, processes, interruptions, misuse."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.loader import to_device
from core.data.phyre import Phyre
from core.data.slots import SlotFile, SlotFolder
from core.runs import load_model
from core.training.checkpoint import load
from slotformer import base_slots, original
from slotformer.base_slots.data import open_data
from slotformer.base_slots.models import build_model
from slotformer.framework.extraction import video_noise
from slotformer.framework.params import load_params, parse_overrides
from tests.conftest import ROOT, Runner
from tests.slotformer_runs import CONFIGS, SMALL, losses, newest, train_words

FOLDERS = {"savi_obj3d_params": "OBJ3D", "stosavi_clevrer_params": "CLEVRER"}
PHYRE = {"num_actions": 8, "num_tasks": 2, "data_ratio": 0.5, "pos_ratio": 0.5}
BRIEF = ("train_batch_size=8", "n_samples=1", "san_check_val_step=0")
CPU = torch.device("cpu")
ATOL = 1e-6


def settings_of(config: str, videos: Path) -> tuple[str, ...]:
    phyre = tuple(f"{key}={value}" for key, value in PHYRE.items()) if "phyre" in config else ()
    return (f"data_root={videos / FOLDERS.get(config, 'Physion')}", *SMALL[config], *phyre)


def words_of(script: str, config: str, weight: Path, videos: Path, *flags: object, settings: tuple = ()) -> list:
    """The documents' command on small videos."""
    params = CONFIGS / f"{config}.py"
    changed = (*settings_of(config, videos), *settings)
    return [f"slotformer/base_slots/{script}.py", "--params", params, "--weight", weight, *flags, "--set", *changed]


@pytest.fixture(scope="module")
def trained(run: Runner, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Weights of trainings of a few steps, by configuration, each in a folder of its own."""
    cwd = tmp_path_factory.mktemp("trained")

    def weight_of(config: str) -> Path:
        folder = cwd / "checkpoint" / config
        if not folder.exists():
            more = PHYRE.items() if "phyre" in config else {}.items()
            settings = (*BRIEF, *(f"{key}={value}" for key, value in more))
            if config == "steve_physion_params":
                settings += (f"dvae_dict.dvae_ckp_path={weight_of('dvae_physion_params')}",)
            data = videos / FOLDERS.get(config, "Physion")
            done = run(*train_words(config, data, config, settings=settings), cwd=cwd)
            assert done.returncode == 0, done.stderr
        return newest(folder)

    return weight_of


@pytest.fixture
def weight(trained: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copies of such weights, whose folder is the test's own."""

    def copied(config: str) -> Path:
        folder = tmp_path / "checkpoint" / config / "models"
        folder.mkdir(parents=True, exist_ok=True)
        return shutil.copy(trained(config), folder / "model.pth")

    return copied


def extract(run: Runner, *words: object, **more: object) -> subprocess.CompletedProcess:
    done = run(*words, **more)
    assert done.returncode == 0, done.stderr
    return done


def assert_same_slots(found: SlotFile, wanted: SlotFile, atol: float = ATOL) -> None:
    assert found.splits == wanted.splits
    for split in wanted.splits:
        assert found.names(split) == wanted.names(split)
        for name in wanted.names(split):
            np.testing.assert_allclose(found.read(split, name), wanted.read(split, name), rtol=0, atol=atol)


def assert_true_slots(path: Path, config: str, weight: Path, videos: Path, dataset: str, seed: int = 0) -> None:
    """All slots are those that the model finds in one video at a time, in one pass over it as training reads it."""
    params = load_params(CONFIGS / f"{config}.py", base_slots.Keys, parse_overrides(settings_of(config, videos)))
    params.dataset = dataset
    model = build_model(params).eval()
    model.load_state_dict(load(weight)["model"])
    slots = SlotFile(path)
    for split in slots.splits:
        source = open_data(params, split, None)
        assert slots.names(split) == sorted(source.names)
        for index, name in enumerate(source.names):
            batch = to_device(source.read(np.array([index])), CPU)
            with torch.no_grad():
                found = model.extract(batch, video_noise(seed, [f"{split}/{name}"], source.num_frames, CPU))
            np.testing.assert_allclose(slots.read(split, name), found[0].numpy(), rtol=0, atol=1e-5)


def test_obj3d(run: Runner, videos: Path, tmp_path: Path, weight) -> None:
    config = "savi_obj3d_params"
    words = words_of("extract_slots", config, weight(config), videos, "--save_path", "data/obj3d_slots.h5")
    done = extract(run, *words, cwd=tmp_path)
    path = tmp_path / "data" / "obj3d_slots.h5"
    assert "obj3d, train: 8/8, val: 1/1: data/obj3d_slots.h5\n" in done.stdout
    assert "63 frames in " in done.stdout
    assert "frames per second" in done.stdout
    slots = SlotFile(path)
    assert slots.names("train") == sorted(entry.name for entry in (videos / "OBJ3D" / "train").iterdir())
    assert {slots.shape(split, name) for split in slots.splits for name in slots.names(split)} == {(7, 3, 16)}
    assert slots.provenance["weight"] == "model.pth"
    assert slots.provenance["run"]["paper"] == "slotformer"
    assert_true_slots(path, config, weight(config), videos, "obj3d")
    link = tmp_path / "checkpoint" / config / "models" / "slots.h5"
    assert link.is_symlink()
    assert link.samefile(path)
    assert SlotFile(link.with_suffix(".pkl")).path == link, "what the next configuration names"
    before = path.stat().st_mtime_ns
    again = extract(run, *words, cwd=tmp_path)
    assert "data/obj3d_slots.h5 was there already" in again.stdout
    assert path.stat().st_mtime_ns == before
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["obj3d_slots.h5"]


@pytest.mark.slow
def test_clevrer_in_one_process_or_two(run: Runner, videos: Path, tmp_path: Path, weight) -> None:
    config = "stosavi_clevrer_params"
    seeds = {"one": (), "two": ("--ddp",), "other": ("--seed", 1), "single": ("--bs", 1)}
    found = {}
    for name, flags in seeds.items():
        path = tmp_path / f"clevrer_{name}.h5"
        words = words_of("extract_slots", config, weight(config), videos, "--save_path", path, *flags)
        done = extract(run, *words, "gpus=2", cwd=tmp_path)
        assert done.stdout.count(f"clevrer, train: 8/8, val: 1/1, test: 1/1: {path}\n") == 1
        found[name] = SlotFile(path)
    assert found["one"].names("test") == ["video_15000.mp4"]
    assert_same_slots(found["two"], found["one"])
    assert_same_slots(found["single"], found["one"])
    assert_true_slots(tmp_path / "clevrer_one.h5", config, weight(config), videos, "clevrer")
    name = found["one"].names("train")[0]
    assert np.abs(found["other"].read("train", name) - found["one"].read("train", name)).max() > 1e-3


def test_subsets_of_physion(run: Runner, videos: Path, tmp_path: Path, weight) -> None:
    config = "steve_physion_params"
    for subset, splits in {"training": ["train", "val"], "readout": ["train", "val"], "test": ["test"]}.items():
        path = tmp_path / "Physion" / f"{subset}_slots.h5"
        words = words_of(
            "extract_slots", config, weight(config), videos, "--save_path", path, "--subset", subset, "--bs", 3
        )
        done = extract(run, *words, cwd=tmp_path)
        assert "note" not in done.stderr
        slots = SlotFile(tmp_path / "checkpoint" / config / "models" / f"{subset}_slots.pkl")
        assert slots.splits == splits
        assert all("." not in name and name.endswith("_img") for split in splits for name in slots.names(split))
        assert_true_slots(path, config, weight(config), videos, f"physion_{subset}")


def test_the_originals_pickle_and_weights(run: Runner, videos: Path, tmp_path: Path, weight) -> None:
    config = "stosavi_clevrer_params"
    ours = weight(config)
    model, _ = load_model(ours)
    theirs = ours.with_name("original.pth")
    torch.save({"state_dict": original.export_state(model), "it": 7}, theirs)
    for file, name in ((ours, "clevrer.h5"), (theirs, "clevrer_original.pkl")):
        words = words_of("extract_slots", config, file, videos, "--save_path", name)
        done = extract(run, *words, cwd=tmp_path)
        assert ("the original's models have seen CLEVRER as blue, green, red" in done.stderr) == (file == theirs)
    assert (tmp_path / "clevrer_original.pkl").read_bytes()[:2] == b"\x80\x02"
    assert_same_slots(SlotFile(tmp_path / "clevrer_original.pkl"), SlotFile(tmp_path / "clevrer.h5"), 0)
    links = sorted(path.name for path in ours.parent.iterdir() if path.is_symlink())
    assert links == ["slots.pkl"], "the older link would win over it where configurations name it"
    assert (ours.parent / "slots.pkl").resolve() == tmp_path / "clevrer_original.pkl"


def start(words: list, cwd: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / words[0]), *(str(word) for word in words[1:])]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stop_after(words: list, cwd: Path, pattern: str, count: int, number: signal.Signals) -> tuple[int, str]:
    """Send a signal once so many files are there; exit code and output."""
    process = start(words, cwd)
    end = time.monotonic() + 120
    while len(list(cwd.glob(pattern))) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "too slow"
        time.sleep(0.001)
    process.send_signal(number)
    return (process.wait(timeout=60), process.communicate()[0])


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_it_goes_on_where_it_was(run: Runner, videos: Path, tmp_path: Path, weight, processes: int) -> None:
    config = "savi_obj3d_params"
    words = words_of("extract_slots", config, weight(config), videos, "--save_path", "obj3d.h5", "--bs", 1)
    killed = [*words, f"gpus={processes}"]
    killed[1:1] = ["--ddp"]
    code, output = stop_after(killed, tmp_path, "obj3d.h5.parts/train/*.npy", 2, signal.SIGKILL)
    assert code == -signal.SIGKILL, output
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("obj3d.h5.parts/train/*.npy")}
    assert 2 <= len(kept) < 8
    assert not (tmp_path / "obj3d.h5").exists()
    (tmp_path / "obj3d.h5.parts" / "train" / ".000007.npy.1.partial").write_bytes(b"half")
    code, output = stop_after(words, tmp_path, "obj3d.h5.parts/train/0*.npy", len(kept) + 1, signal.SIGTERM)
    assert code == 75, output
    assert "SIGTERM: stopping; the same command continues" in output
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "not made again"
    left = 9 - len(list(tmp_path.glob("obj3d.h5.parts/*/0*.npy")))
    done = extract(run, *words, cwd=tmp_path)
    assert f"{7 * left} frames in " in done.stdout
    whole = words_of("extract_slots", config, weight(config), videos, "--save_path", "whole_obj3d.h5", "--bs", 1)
    extract(run, *whole, cwd=tmp_path)
    assert_same_slots(SlotFile(tmp_path / "obj3d.h5"), SlotFile(tmp_path / "whole_obj3d.h5"), atol=0)


def test_parts_of_another_weight_stop_it(run: Runner, videos: Path, tmp_path: Path, weight) -> None:
    config = "savi_obj3d_params"
    file = weight(config)
    words = words_of("extract_slots", config, file, videos, "--save_path", "obj3d.h5", "--bs", 1)
    stop_after(words, tmp_path, "obj3d.h5.parts/train/*.npy", 1, signal.SIGKILL)
    state = load(file)
    state["model"]["init_latents"] += 1
    torch.save(state, file)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "obj3d.h5.parts: holds results of other weights or settings:\n  weight_sha256: " in done.stderr
    shutil.rmtree(tmp_path / "obj3d.h5.parts")
    extract(run, *words, cwd=tmp_path)


def test_words_of_physion(run: Runner, videos: Path, tmp_path: Path, weight, trained) -> None:
    config = "dvae_physion_params"
    shutil.copytree(videos / "Physion", tmp_path / "videos" / "Physion")
    words = words_of("tokenize_images", config, weight(config), tmp_path / "videos", "--bs", 4, "--cpus", 2)
    done = extract(run, *words, cwd=tmp_path)
    assert "16 of 16 videos tokenised" in done.stdout or "8 of 8 videos tokenised" in done.stdout
    assert done.stdout.index("val: ") < done.stdout.index("train: ")
    folder = tmp_path / "videos" / "Physion" / f"PhysionTrainNpys-{config}"
    files = sorted(folder.rglob("*.npy"))
    mp4s = (tmp_path / "videos" / "Physion" / "PhysionTrainMP4s").glob("*_training_MP4s/*.mp4")
    assert [file.relative_to(folder).with_suffix("") for file in files] == sorted(
        mp4.relative_to(mp4.parents[1]).with_suffix("") for mp4 in mp4s
    )
    params = load_params(CONFIGS / f"{config}.py", base_slots.Keys, parse_overrides(settings_of(config, videos)))
    model, _ = load_model(weight(config))
    source = open_data(params, "train", None)
    for index, name in enumerate(source.names):
        video = to_device(source.read(np.array([index])), CPU)["video"]
        (file,) = folder.rglob(f"{name}.npy")
        tokens = np.load(file)
        assert (tokens.dtype, tokens.shape) == (np.int16, (6, 32 * 32))
        np.testing.assert_array_equal(tokens, model.tokenize(2 * video - 1)[0].flatten(1).numpy())
    times = {file: file.stat().st_mtime_ns for file in files}
    files[3].write_bytes(files[3].read_bytes()[:200])
    done = extract(run, *words, cwd=tmp_path)
    changed = [file for file in files if file.stat().st_mtime_ns != times[file]]
    assert changed == [files[3]]
    assert np.load(files[3]).shape == (6, 32 * 32)


@pytest.mark.slow
def test_steve_learns_the_same_from_words_on_disk(run: Runner, videos: Path, tmp_path: Path, trained) -> None:
    shutil.copytree(videos / "Physion", tmp_path / "videos" / "Physion")
    dvae = trained("dvae_physion_params")
    extract(run, *words_of("tokenize_images", "dvae_physion_params", dvae, tmp_path / "videos"), cwd=tmp_path)
    for name, data in (("asked", videos), ("read", tmp_path / "videos")):
        settings = (*BRIEF, f"dvae_dict.dvae_ckp_path={dvae}")
        words = train_words("steve_physion_params", data / "Physion", name, settings=settings)
        extract(run, *words, cwd=tmp_path)
    asked, read = (losses(tmp_path / "checkpoint" / name) for name in ("asked", "read"))
    assert len(asked) >= 2
    assert read == asked
    other = tmp_path / "other" / dvae.parts[-3] / "models" / dvae.name
    other.parent.mkdir(parents=True)
    torch.save({"other": torch.zeros(1)}, other)
    settings = (*BRIEF, f"dvae_dict.dvae_ckp_path={other}")
    words = train_words("steve_physion_params", tmp_path / "videos" / "Physion", "mixed", settings=settings)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "PhysionTrainNpys-dvae_physion_params: holds words of the weight" in done.stderr


@pytest.mark.slow
def test_phyre_in_parts(run: Runner, videos: Path, tmp_path: Path, weight) -> None:
    config = "savi_phyre_params-fold0"
    words = words_of(
        "extract_phyre_slots", config, weight(config), videos, "--save_path", "PHYRE", "--vid_len", 4, "--cpus", 1
    )
    folders = {
        split: tmp_path / "PHYRE" / "slots" / config / f"within-fold_0-{split}-data_0.5-pos_0.5"
        for split in ("val", "train")
    }
    sources = {split: Phyre(split, None, video_len=4, **PHYRE) for split in folders}
    for part in (1, 0):
        flags = ["--split", part, "--total_split", 2]
        done = extract(run, words[0], *flags, *words[1:], cwd=tmp_path)
        for split, folder in folders.items():
            count = len(sources[split])
            bounds = [0, count // 2, count]
            done_now = count if part == 0 else count - bounds[1]
            assert f"{split}: {done_now}/{count}, in " in done.stdout
            assert (folder / "lengths.npy").exists() == (part == 0)
        link = tmp_path / "checkpoint" / config / "models" / "val_slots"
        assert link.is_symlink() == (part == 0)
    model, _ = load_model(weight(config))
    for split, folder in folders.items():
        slots, source = SlotFolder(folder, len(sources[split])), sources[split]
        batch = to_device(source.read(np.arange(len(source))), CPU)
        assert slots.lengths.tolist() == batch["num_frames"].tolist()
        with torch.no_grad():
            found = model.extract(batch)
        for trial, length in enumerate(slots.lengths):
            np.testing.assert_allclose(slots.read(trial), found[trial, :length].numpy(), rtol=0, atol=1e-5)
        assert (tmp_path / "checkpoint" / config / "models" / f"{split}_slots").samefile(folder)
    file = folders["train"] / "000001.npy"
    times = {path: path.stat().st_mtime_ns for path in folders["train"].glob("0*.npy")}
    content = np.load(file)
    file.unlink()
    extract(run, words[0], "--ddp", *words[1:], "gpus=2", cwd=tmp_path)
    np.testing.assert_allclose(np.load(file), content, rtol=0, atol=ATOL)
    assert {path for path in times if path.stat().st_mtime_ns == times[path]} == times.keys() - {file}


@pytest.mark.parametrize(
    ("script", "change", "message"),
    [
        ("extract_slots", ("--weight", "none.pth"), "none.pth: no such checkpoint"),
        (
            "extract_slots",
            ("--set", "slot_dict.num_slots=4"),
            "init_latents: [1, 3, 16] in the file, [1, 4, 16] in the",
        ),
        ("extract_slots", ("--set", "data_root=nowhere"), "nowhere/train: no folders of videos in it"),
        ("extract_slots", ("--set", "data_rot=x"), "no key 'data_rot'; did you mean 'data_root'?"),
        ("extract_slots", ("--save_path", "slots.npz"), "slots.npz: expected a name that ends in .h5, or in .pkl"),
        ("extract_slots", ("--subset", "test"), "--subset test: obj3d has no subsets"),
        ("extract_slots", ("--params", CONFIGS / "dvae_physion_params.py"), "a configuration of dVAE, expected one of"),
        ("tokenize_images", (), "a configuration of StoSAVi, expected one of dVAE"),
        ("extract_phyre_slots", (), "dataset 'obj3d' is not phyre. Use extract_slots.py"),
    ],
)
def test_misuse_is_answered(run: Runner, videos: Path, tmp_path: Path, weight, script, change, message) -> None:
    config = "savi_obj3d_params"
    save = () if script == "tokenize_images" else ("--save_path", "slots.h5")
    done = run(*words_of(script, config, weight(config), videos, *save), *change, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
