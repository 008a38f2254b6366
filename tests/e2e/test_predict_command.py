"""`tools/predict.py` on pictures of several sizes and on videos that the tests make."""

import json
from collections.abc import Callable
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from core.benchmark.subjects import Subject
from core.data.slots import SlotFile
from core.training.checkpoint import save
from core.viz.videos import encode_mp4
from slotformer import base_slots
from slotformer.framework.params import load_params, parse_overrides
from slotformer.original import export_state
from tests.conftest import MadeOnce, Runner
from tests.osrt_runs import config_in
from tests.osrt_runs import settings as osrt_settings
from tests.slotformer_runs import CONFIGS, SMALL
from tests.tiny_runs import train_words

SIZES = {"a-first": (40, 52), "b.second": (35, 35), "c third": (21, 64)}
NUM_SLOTS = 3


@pytest.fixture(scope="session")
def emorl_run(tetrominoes: Path, run: Runner, made_once: MadeOnce) -> Path:
    """Slot Attention after six steps on pictures of 35x35."""

    def train(folder: Path) -> None:
        done = run(*train_words(tetrominoes, folder, model="SlotAttention"))
        assert done.returncode == 0, done.stderr

    return made_once("predict-emorl", train)


@pytest.fixture(scope="session")
def savi_run(run: Runner, made_once: MadeOnce) -> Path:
    """SAVi for 64x64 pixels, imported from weights as the original stores them."""

    def write(folder: Path) -> None:
        config = CONFIGS / "savi_obj3d_params.py"
        torch.manual_seed(0)
        model = base_slots.build_model(
            load_params(config, base_slots.Keys, parse_overrides(SMALL["savi_obj3d_params"]))
        )
        save(folder / "original.pth", {"state_dict": export_state(model), "it": 7})
        words = ("--paper", "slotformer", "--config", config, "--out", folder / "run")
        done = run("tools/import_weights.py", folder / "original.pth", *words, "--set", *SMALL["savi_obj3d_params"])
        assert done.returncode == 0, done.stderr

    return made_once("predict-savi", write) / "run"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, size in SIZES.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven frames of 50x70 pixels, on which a square moves."""
    frames = np.full((11, 50, 70, 3), 40, np.uint8)
    for number, frame in enumerate(frames):
        frame[10:25, 4 * number : 4 * number + 15] = (200, 30, 60)
    path = tmp_path_factory.mktemp("videos") / "square.mp4"
    path.write_bytes(encode_mp4(frames, fps=12))
    return path


def predict(run: Runner, *words: object) -> str:
    done = run("tools/predict.py", *words, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(run: Runner, *words: object) -> str:
    done = run("tools/predict.py", *words, "--device", "cpu")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_pictures_of_any_size(emorl_run: Path, pictures: Path, run: Runner, tmp_path: Path):
    out = tmp_path / "out"
    assert "3 images" in predict(run, emorl_run, "--input", pictures, "--out", out, "--batch-size", 2)
    found = json.loads((out / "predictions.json").read_text())
    assert found["num_slots"] == NUM_SLOTS
    assert list(found["files"]) == [str(pictures / f"{name}.png") for name in SIZES]
    for name, size in SIZES.items():
        with Image.open(out / "masks" / f"{name}.png") as file:
            assert file.mode == "P"
            labels = np.array(file)
        assert labels.shape == size
        assert labels.max() < NUM_SLOTS
        entry = found["files"][str(pictures / f"{name}.png")]
        assert entry["size"] == list(size)
        for slot in entry["slots"]:
            rows, columns = np.nonzero(labels == slot["slot"])
            assert abs(slot["area"] - len(rows) / labels.size) < 1e-6
            assert slot["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert entry["slots_used"] == sum(slot["area"] >= 0.005 for slot in entry["slots"])
        with Image.open(out / "overlays" / f"{name}.png") as file:
            assert file.size == size[::-1]
        with Image.open(out / "reconstructions" / f"{name}.png") as file:
            assert file.size == (35, 35)
        assert (out / "panels" / f"{name}.png").is_file()
    slots = SlotFile(out / "slots.h5")
    assert slots.names("all") == sorted(SIZES)
    assert slots.shape("all", "b.second")[:2] == (1, NUM_SLOTS)
    assert slots.provenance["num_slots"] == NUM_SLOTS


@pytest.mark.slow
def test_the_model_at_its_own_size_gives_the_same(emorl_run: Path, pictures: Path, run: Runner, tmp_path: Path):
    """The masks of a picture that has the model's size are those of its decomposition; batches change nothing."""
    out = tmp_path / "out"
    predict(run, emorl_run, "--input", pictures, "--out", out, "--batch-size", 3)
    with Image.open(pictures / "b.second.png") as file:
        image = torch.from_numpy(np.array(file)).permute(2, 0, 1)[None].float() / 255
    found = Subject.open(emorl_run).decompose({"image": image}, [1])
    with Image.open(out / "masks" / "b.second.png") as file:
        agreement = float((torch.from_numpy(np.array(file)) == found.masks[0, 0].argmax(0)).float().mean())
    assert agreement > 0.999
    slots = SlotFile(out / "slots.h5").read("all", "b.second")
    np.testing.assert_allclose(slots[0], found.slots[0, 0].numpy(), rtol=1e-4, atol=1e-5)


def test_another_number_of_slots(emorl_run: Path, savi_run: Path, pictures: Path, run: Runner, tmp_path: Path):
    out = tmp_path / "out"
    predict(run, emorl_run, "--input", pictures / "c third.png", "--out", out, "--num-slots", 6)
    assert SlotFile(out / "slots.h5").shape("all", "c third")[1] == 6
    words = ("--input", pictures, "--out", tmp_path / "other", "--num-slots", 6)
    assert "its slots are learned one by one" in refusal(run, savi_run, *words)
    assert not (tmp_path / "other").exists()


def test_again_and_elsewhere(emorl_run: Path, pictures: Path, run: Runner, tmp_path: Path):
    """The same command gives the same; another one, or a folder with other files, is refused."""
    out = tmp_path / "out"
    words = ("--input", pictures / "b.second.png", "--out", out)
    predict(run, emorl_run, *words)
    before = {path: path.read_bytes() for path in out.rglob("*.png")}
    predict(run, emorl_run, *words)
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == before
    message = refusal(run, emorl_run, *words, "--seed", 5)
    assert "seed: 1 -> 5" in message
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    message = refusal(run, emorl_run, "--input", pictures, "--out", foreign)
    assert f"{foreign}: holds files" in message
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


def test_a_video_takes_its_slots_along(savi_run: Path, video: Path, run: Runner, tmp_path: Path):
    """Clips of four frames hand over their slots: what comes out is what the whole video in one pass gives."""
    out = tmp_path / "out"
    assert "1 videos" in predict(run, savi_run, "--input", video, "--out", out, "--batch-size", 4)
    masks = sorted((out / "masks" / "square").glob("*.png"))
    assert [path.name for path in masks] == [f"{number:06d}.png" for number in range(11)]
    assert frames_of(out / "overlays" / "square.mp4").shape == (11, 50, 70, 3)
    assert frames_of(out / "reconstructions" / "square.mp4").shape == (11, 64, 64, 3)
    assert (out / "panels" / "square.png").is_file()
    found = json.loads((out / "predictions.json").read_text())["files"][str(video)]
    assert len(found["frames"]) == 11
    assert sum(slot["area"] for slot in found["frames"][3]["slots"]) == pytest.approx(1, abs=1e-5)
    clip = torch.from_numpy(frames_of(video)).permute(0, 3, 1, 2)[None].float() / 255
    whole = Subject.open(savi_run).decompose({"video": clip}, [0])
    slots = SlotFile(out / "slots.h5").read("all", "square")
    np.testing.assert_allclose(slots, whole.slots[0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_frame_by_frame(emorl_run: Path, video: Path, run: Runner, tmp_path: Path):
    """A model of pictures sees every frame by itself, whatever goes through at a time; folders of frames, too."""
    folder = tmp_path / "videos" / "square"
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames_of(video)):
        Image.fromarray(frame).save(folder / f"{number}.png")
    slots = {}
    for batch_size in (2, 5):
        out = tmp_path / f"out-{batch_size}"
        words = ("--input", folder.parent, "--out", out, "--frames", 7, "--batch-size", batch_size)
        predict(run, emorl_run, *words)
        slots[batch_size] = SlotFile(out / "slots.h5").read("all", "square")
        assert frames_of(out / "overlays" / "square.mp4").shape == (7, 50, 70, 3)
    assert slots[2].shape[:2] == (7, NUM_SLOTS)
    np.testing.assert_allclose(slots[2], slots[5], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_pictures_for_a_model_of_videos(savi_run: Path, pictures: Path, run: Runner, tmp_path: Path):
    out = tmp_path / "out"
    predict(run, savi_run, "--input", pictures, "--out", out)
    with h5py.File(out / "slots.h5") as file:
        assert {name: value.shape for name, value in file["all"].items()} == dict.fromkeys(SIZES, (1, NUM_SLOTS, 16))


def damaged(folder: Path) -> Path:
    folder.mkdir()
    (folder / "half.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (damaged, "half.png: cannot be read as a picture"),
        (lambda folder: folder, "no such folder"),
        (lambda folder: folder.with_name("test_predict_command.py"), "neither a picture nor a video"),
    ],
    ids=["damaged", "missing", "text"],
)
def test_input_that_cannot_be_read(
    make: Callable[[Path], Path], message: str, emorl_run: Path, run: Runner, tmp_path: Path
):
    (tmp_path / "test_predict_command.py").write_text("")
    assert message in refusal(run, emorl_run, "--input", make(tmp_path / "input"), "--out", tmp_path / "out")


def test_light_fields_are_refused(pictures: Path, run: Runner, tmp_path: Path):
    """OSRT cannot do without cameras."""
    from osrt.config import load_config
    from osrt.models import build_model

    config = config_in(tmp_path)
    words = osrt_settings(tmp_path)
    model = build_model(**load_config(config, words).model_arguments((0.0, 1.0)))
    parts = {
        part: {name.removeprefix(f"{part}."): value for name, value in model.state_dict().items() if part in name[:7]}
        for part in ("encoder", "decoder")
    }
    save(tmp_path / "model.pt", parts)
    flags = ("--paper", "osrt", "--config", config, "--out", tmp_path / "run", "--set", *words)
    done = run("tools/import_weights.py", tmp_path / "model.pt", *flags)
    assert done.returncode == 0, done.stderr
    message = refusal(run, tmp_path / "run", "--input", pictures, "--out", tmp_path / "out")
    assert "needs several views of a scene with their cameras, images have none" in message
    assert not (tmp_path / "out").exists()


def test_a_misspelt_flag_and_a_device_that_is_not_there(emorl_run: Path, pictures: Path, run: Runner, tmp_path: Path):
    words = (emorl_run, "--input", pictures, "--out", tmp_path / "out")
    done = run("tools/predict.py", *words, "--num-slot", 3)
    assert done.returncode == 2
    assert "did you mean '--num_slots'?" in done.stderr
    done = run("tools/predict.py", *words, "--device", "cuda:77")
    assert done.returncode == 1
    assert "--device cuda:77: torch cannot use it" in done.stderr
