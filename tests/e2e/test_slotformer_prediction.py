"""Scores and roll-outs of SlotFormer as a user types them: files, figures, processes, interruptions, misuse."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from core.data.loader import to_device
from core.data.slots import SlotFile, SlotFolder
from core.metrics.video_prediction import StepMeans
from core.training.checkpoint import save
from slotformer import original
from slotformer.video_prediction import build_model, rollout_clevrer_slots, test_vp
from slotformer.video_prediction.data import open_slots
from slotformer.video_prediction.evaluation import MEANINGS, score_batch
from slotformer.video_prediction.models.slotformer import SlotFormer
from slotformer.video_prediction.rollouts import interleaved_rollout
from tests import dynamics_runs, slotformer_runs
from tests.conftest import ROOT, Runner
from tests.dynamics_runs import CONFIGS, RUN, SLOTS, SMALL, inputs_of, small_params
from tests.slotformer_runs import newest

OBJ3D, CLEVRER = "slotformer_obj3d_params", "slotformer_clevrer_params"
PHYRE, PHYSION = "slotformer_phyre_params-fold0", "slotformer_physion_params"
FOLDERS = {OBJ3D: "OBJ3D", CLEVRER: "CLEVRER"}
FRAMES = {OBJ3D: 8, CLEVRER: 6}
UNFILTERED = ("filter_enter=False",)
CLEVRER_LENGTHS = ("--num_observed", 16, "--num_frames", 21)
SCORES = {"mse", "ssim", "psnr", "ari", "fari", "miou", "ap", "ar"}


def data_of(config: str, videos: Path) -> Path:
    return videos / FOLDERS.get(config, "Physion")


def write_model(config: str, folder: Path) -> Path:
    """Untrained weights."""
    torch.manual_seed(0)
    save(folder / "model.pth", {"model": build_model(small_params(config)).state_dict()})
    return folder / "model.pth"


def words_of(script: str, config: str, videos: Path, folder: Path, *flags: object, settings: tuple = ()) -> list:
    """The documents' command on small videos, with an untrained model and slots that are made up."""
    weight = folder / "model.pth"
    if not weight.exists():
        write_model(config, folder)
    data = data_of(config, videos)
    small = (*SLOTS, *RUN, *SMALL[config], f"data_root={data}", *inputs_of(config, data, folder), *settings)
    script, params = f"slotformer/video_prediction/{script}.py", CONFIGS / f"{config}.py"
    return [script, "--params", params, "--weight", weight, *flags, "--set", *small]


def succeed(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def slots_of(config: str, folder: Path) -> SlotFile:
    return SlotFile(folder / config / "slots.h5")


def model_of(config: str, folder: Path) -> SlotFormer:
    model = build_model(small_params(config)).eval()
    model.load_state_dict(original.read_weights(folder / "model.pth", model))
    return model


# Scores


def expected_means(config: str, videos: Path, folder: Path, settings: tuple = ()) -> dict[str, StepMeans]:
    """Of every method, clip by clip."""
    data = data_of(config, videos)
    params = small_params(config, f"data_root={data}", *inputs_of(config, data, folder), *settings)
    source, model = open_slots(params, "val", FRAMES[config], pictures=True), model_of(config, folder)
    means = {name: StepMeans() for name in MEANINGS}
    for clip in range(len(source)):
        with torch.no_grad():
            scores = score_batch(model, to_device(source.read(np.array([clip])), torch.device("cpu")))
        for name, values in scores.items():
            means[name].update(values)
    return means


@pytest.mark.parametrize("config", [OBJ3D, CLEVRER])
def test_scores_and_videos(run: Runner, videos: Path, tmp_path: Path, config: str) -> None:
    words = words_of("test_vp", config, videos, tmp_path, "--n_sample_frames", FRAMES[config], settings=UNFILTERED)
    done = run(*words, cwd=tmp_path)
    printed = succeed(done)
    name, steps = FOLDERS[config].lower(), FRAMES[config] - 3
    assert f"note: {steps} frames are predicted, the model was trained to predict 2" in done.stderr
    assert "percept_dist is left out. LPIPS (vgg) needs weights" in done.stderr
    folder = tmp_path / "vis" / name / config
    report = json.loads((tmp_path / f"model-vp-{config}.json").read_text())
    expected = expected_means(config, videos, tmp_path, UNFILTERED)
    for method, of in expected.items():
        means = of.means()
        assert means.keys() == SCORES
        for score, values in means.items():
            found = np.array(report["per_step"][method][score], float)
            np.testing.assert_allclose(found, values.numpy(), rtol=1e-4, atol=1e-6, equal_nan=True)
    for score in SCORES - {"ap"}:
        stored = np.load(folder / f"{score}.npy")
        assert (stored.dtype, stored.shape) == (np.float64, (steps,))
        np.testing.assert_allclose(stored, np.array(report["per_step"]["SlotFormer"][score], float))
        line = next(line for line in printed.splitlines() if line.startswith(f"{score} "))
        assert line.split()[1:] == [f"{report['scores'][method][score]:.4f}" for method in MEANINGS]
    assert {path.name for path in folder.iterdir()} == {
        *(f"{score}.npy" for score in SCORES - {"ap"}),
        *(f"{config}{ending}" for ending in (".mp4", "_mask.mp4", "_bbox.mp4", ".png")),
    }
    clips = report["num_clips"]
    assert clips == (1 if config == OBJ3D else 2)
    assert f"{name}, {clips} clips, {steps} frames predicted from 3:" in printed
    for ending in ("", "_mask", "_bbox"):
        with av.open(folder / f"{config}{ending}.mp4") as video:
            assert float(video.streams.video[0].average_rate) == 4
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert {frame.shape for frame in frames} == {(2 * 68, clips * 68, 3)}
        assert len(frames) == FRAMES[config]
        corners = [int(frame[68, 0].argmax()) for frame in frames]
        assert corners == [1] * 3 + [0] * steps, "green while observed, then red"
    with Image.open(folder / f"{config}.png") as picture:
        assert picture.size == ((steps + 1) * 66 + 2, clips * 4 * 66 + 2)
    assert report["longer_than_trained"]
    assert (report["rollout_len"], report["trained_rollout_len"]) == (steps, 2)


def test_as_original_without_masks_objects_are_zero(run: Runner, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos / "OBJ3D" / "val", tmp_path / "plain" / "OBJ3D" / "val")
    (tmp_path / "plain" / "OBJ3D" / "train").symlink_to(videos / "OBJ3D" / "train")
    for mask in (tmp_path / "plain").glob("OBJ3D/val/*/mask_*.png"):
        mask.unlink()
    words = words_of("test_vp", OBJ3D, tmp_path / "plain", tmp_path, "--n_sample_frames", 8)
    with h5py.File(tmp_path / OBJ3D / "slots.h5", "a") as file:
        file.attrs["provenance"] = json.dumps({"weight": "other.pth", "weight_sha256": "0" * 64})
    succeed(plain := run(*words, cwd=tmp_path))
    folder = tmp_path / "vis" / "obj3d" / OBJ3D
    assert {path.name for path in folder.iterdir()} == {
        *("mse.npy", "ssim.npy", "psnr.npy"),
        *(f"{OBJ3D}.mp4", f"{OBJ3D}.png"),
    }
    assert "has no masks: scores of objects are left out" in plain.stderr
    assert "slots.h5 were made by another weight (other.pth) than dec_dict.dec_ckp_path=" in plain.stderr
    succeed(run(*words, "--as-original", cwd=tmp_path))
    for score in ("ari", "fari", "miou", "ar"):
        assert np.load(tmp_path / "vis" / "obj3d" / f"{OBJ3D}-as_original" / f"{score}.npy").tolist() == [0] * 5
        assert not (folder / f"{score}.npy").exists(), "the right results stay"
    reports = [json.loads((tmp_path / f"model-vp-{OBJ3D}{end}.json").read_text()) for end in ("", "-as_original")]
    assert [report["as_original"] for report in reports] == [False, True]


def test_save_num_only_draws(run: Runner, videos: Path, tmp_path: Path) -> None:
    flags = ("--n-sample-frames", 6, "--save_num", 1)
    printed = succeed(run(*words_of("test_vp", CLEVRER, videos, tmp_path, *flags, settings=UNFILTERED), cwd=tmp_path))
    folder = tmp_path / "vis" / "clevrer" / CLEVRER
    assert {path.suffix for path in folder.iterdir()} == {".mp4", ".png"}
    assert not list(tmp_path.glob("*.json"))
    assert printed.startswith("1 clips in vis/clevrer/")
    with av.open(folder / f"{CLEVRER}.mp4") as video:
        assert video.streams.video[0].width == 68


@pytest.mark.slow
def test_scores_of_two_processes_are_those_of_one(run: Runner, videos: Path, tmp_path: Path) -> None:
    reports = []
    for flags in ((), ("--ddp",), ("--batch_size", 1)):
        words = words_of("test_vp", CLEVRER, videos, tmp_path, "--n_sample_frames", 6, *flags, settings=UNFILTERED)
        succeed(run(*words, "gpus=2", cwd=tmp_path))
        reports.append(json.loads((tmp_path / f"model-vp-{CLEVRER}.json").read_text()))
    for other in reports[1:]:
        assert other["clips_per_step"] == reports[0]["clips_per_step"]
        for method, of in reports[0]["scores"].items():
            assert other["scores"][method] == pytest.approx(of, rel=1e-5, abs=1e-6)


# Roll-outs


def assert_rollouts(path: Path, slots: SlotFile, model: torch.nn.Module, observed: int, frames: int, offset: int):
    found = SlotFile(path)
    assert found.splits == slots.splits
    for split in slots.splits:
        assert found.names(split) == slots.names(split)
        for name in slots.names(split):
            past = torch.from_numpy(slots.read(split, name, slice(observed)))[None]
            with torch.no_grad():
                expected = interleaved_rollout(model.rollout, past, model.history_len, offset, frames)[0]
            np.testing.assert_allclose(found.read(split, name), expected.numpy(), rtol=0, atol=1e-5)


def test_rollouts_of_clevrer(run: Runner, videos: Path, tmp_path: Path) -> None:
    words = words_of("rollout_clevrer_slots", CLEVRER, videos, tmp_path, *CLEVRER_LENGTHS, "--bs", 3)
    printed = succeed(run(*words, cwd=tmp_path))
    path = tmp_path / "data" / "CLEVRER" / "rollout_slots.h5"
    assert "train: 8/8, val: 1/1: data/CLEVRER/rollout_slots.h5\n" in printed
    assert "45 frames in " in printed, "those that the model has made"
    slots, model = slots_of(CLEVRER, tmp_path), model_of(CLEVRER, tmp_path)
    assert_rollouts(path, slots, model, 16, 21, 2)
    assert (tmp_path / "rollout_slots.h5").samefile(path)
    assert SlotFile(path).provenance["weight"] == "model.pth"
    assert "was there already" in succeed(run(*words, cwd=tmp_path))
    pickled = [*words, "--save_path", "rollout_clevrer_slots.pkl"]
    succeed(run(*pickled, cwd=tmp_path))
    assert_rollouts(tmp_path / "rollout_clevrer_slots.pkl", slots, model, 16, 21, 2)
    assert (tmp_path / "rollout_slots.pkl").samefile(tmp_path / "rollout_clevrer_slots.pkl")
    assert not (tmp_path / "rollout_slots.h5").is_symlink(), "configurations find the newer one"


def test_rollouts_of_physion(run: Runner, videos: Path, tmp_path: Path) -> None:
    for subset in ("readout", "test"):
        flags = ("--num_observed", 9, "--subset", subset)
        words = words_of("rollout_physion_slots", PHYSION, videos, tmp_path, *flags)
        shutil.copyfile(tmp_path / PHYSION / "slots.h5", tmp_path / PHYSION / f"{subset}_slots.h5")
        succeed(run(*words, cwd=tmp_path))
        path = tmp_path / "data" / "Physion" / f"rollout_{subset}_slots.h5"
        assert_rollouts(path, slots_of(PHYSION, tmp_path), model_of(PHYSION, tmp_path), 9, 12, 3)
        assert (tmp_path / f"{subset}_slots.h5").samefile(path)


def test_rollouts_of_phyre(run: Runner, videos: Path, tmp_path: Path) -> None:
    words = words_of(
        "rollout_phyre_slots", PHYRE, videos, tmp_path, *("--save_path", "PHYRE", "--vid_len", 4, "--cpus", 0)
    )
    model = model_of(PHYRE, tmp_path)
    printed = succeed(run(*words, "--split", 1, "--total_split", 2, cwd=tmp_path))
    count = len(list((tmp_path / PHYRE / "val_slots").glob("0*.npy")))
    assert f"val: {count - count // 2}/{count}, in " in printed
    assert not (tmp_path / "val_slots").exists()
    succeed(run(*words, cwd=tmp_path))
    for split in ("val", "train"):
        folder = tmp_path / "PHYRE" / "rollout_slots" / PHYRE / f"within-fold_0-{split}"
        given = tmp_path / PHYRE / f"{split}_slots"
        trials = len(list(given.glob("0*.npy")))
        found = SlotFolder(folder, trials)
        assert found.lengths.tolist() == [4] * trials
        assert (folder / "lengths.npy").exists()
        assert (tmp_path / f"{split}_slots").samefile(folder)
        for trial in range(0, trials, 3):
            first = torch.from_numpy(np.load(given / f"{trial:06d}.npy"))[None, :1]
            with torch.no_grad():
                expected = torch.cat([first, model.rollout(first, 3)], dim=1)[0]
            np.testing.assert_allclose(found.read(trial), expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_killed_it_goes_on_where_it_was(run: Runner, videos: Path, tmp_path: Path) -> None:
    lengths = ("--num_observed", 16, "--num_frames", 1500, "--bs", 1)
    words = words_of("rollout_clevrer_slots", CLEVRER, videos, tmp_path, *lengths, "--save_path", "killed.h5")
    command = [sys.executable, str(ROOT / words[0]), *(str(word) for word in words[1:])]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("killed.h5.parts/train/*.npy"))) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "too slow"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed.h5.parts/train/v*.npy")}
    assert 2 <= len(kept) < 8
    assert not (tmp_path / "killed.h5").exists()
    printed = succeed(run(*words, cwd=tmp_path))
    assert f"{(9 - len(kept)) * 1484:,} frames in " in printed
    assert {path.name for path in tmp_path.glob("killed*")} == {"killed.h5"}
    words[words.index("killed.h5")] = "two.h5"
    succeed(run(words[0], "--ddp", *words[1:], "gpus=2", cwd=tmp_path))
    killed, two = SlotFile(tmp_path / "killed.h5"), SlotFile(tmp_path / "two.h5")
    for name in killed.names("train"):
        np.testing.assert_array_equal(two.read("train", name), killed.read("train", name))


@pytest.mark.parametrize(
    ("script", "config", "change", "message"),
    [
        (test_vp, PHYSION, (), "a configuration of STEVESlotFormer, expected one of SlotFormer"),
        (test_vp, OBJ3D, ("--n_sample_frames", 3), "expected more than the 3 frames that are seen"),
        (test_vp, OBJ3D, (), "clips of 50 frames, 1 apart, do not fit into videos of 9 frames. Lower n_sample_"),
        (rollout_clevrer_slots, OBJ3D, (), "dataset 'obj3d_slots' is not clevrer_slots"),
        (rollout_clevrer_slots, CLEVRER, (), "holds 16 frames of 3 slots of size 16, expected at least 128 frames"),
        (rollout_clevrer_slots, CLEVRER, ("--num_observed", 5), "frame_offset=2 need 6 frames"),
        (rollout_clevrer_slots, CLEVRER, ("--save_path", "slots.npz"), "expected a name that ends in .h5, or in"),
    ],
)
def test_misuse_is_answered(videos: Path, tmp_path: Path, monkeypatch, capsys, script, config, change, message) -> None:
    words = words_of(script.__name__.rpartition(".")[2], config, videos, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert script.main([str(word) for word in (*words[1:], *CLEVRER_LENGTHS * ("--save_path" in change), *change)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "vis").exists()
    assert not list(tmp_path.rglob("*rollout_slots*"))


# The documents' chain


@pytest.mark.slow
@pytest.mark.parametrize("config", [OBJ3D, CLEVRER])
def test_from_videos_to_scores(run: Runner, videos: Path, tmp_path: Path, config: str) -> None:
    base, data, slots = dynamics_runs.BASES[config], data_of(config, videos), tmp_path / f"{config}_slots.h5"
    lengths = ("video_len=9",) if config == OBJ3D else ("video_len=16",)
    succeed(run(*slotformer_runs.train_words(base, data, base, settings=lengths), cwd=tmp_path))
    weight = newest(tmp_path / "checkpoint" / base)
    small = (*slotformer_runs.SMALL[base], "dropout=0.0", f"data_root={data}", *lengths)
    words = ("--params", slotformer_runs.CONFIGS / base, "--weight", weight, "--save_path", slots, "--set", *small)
    succeed(run("slotformer/base_slots/extract_slots.py", *words, cwd=tmp_path))
    settings = (f"slots_root={slots}", f"dec_dict.dec_ckp_path={weight}")
    succeed(run(*dynamics_runs.train_words(config, data, config, tmp_path, settings=settings), cwd=tmp_path))
    weight = newest(tmp_path / "checkpoint" / config)
    given = ("--params", CONFIGS / config, "--weight", weight)
    small = ("--set", *SLOTS, *RUN, *SMALL[config], f"data_root={data}", *settings, *UNFILTERED)
    done = run(
        *("slotformer/video_prediction/test_vp.py", *given, "--n_sample_frames", FRAMES[config], *small), cwd=tmp_path
    )
    assert "made by another weight" not in done.stderr
    assert "mse " in succeed(done)
    report = json.loads(weight.with_name(f"{weight.stem}-vp-{config}.json").read_text())
    assert report["slots_provenance"]["weight"] == Path(settings[1].partition("=")[2]).name
    if config == CLEVRER:
        script = "slotformer/video_prediction/rollout_clevrer_slots.py"
        succeed(run(script, *given, *CLEVRER_LENGTHS, *small, cwd=tmp_path))
        rolled = SlotFile(weight.with_name("rollout_slots.pkl"))
        assert rolled.splits == ["test", "train", "val"]
        assert rolled.shape("test", rolled.names("test")[0]) == (21, 3, 16)
