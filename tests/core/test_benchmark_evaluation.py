"""Pairs of runs and data scored in this process: what is scored again, and what is no result."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from core.benchmark import evaluation
from core.benchmark.evaluation import Options, content_of, evaluate, open_pairs, root_of
from core.benchmark.prediction import Settings, predict
from core.benchmark.protocol import Protocol
from core.benchmark.results import Results
from core.benchmark.subjects import Subject
from core.data.spec import DataSpec
from core.report.drawing import draw_gallery
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, load, save
from tests.own_data import write_frame_folders, write_pictures

ARGUMENTS = {
    "name": "SlotAttention",
    "arguments": {"image_size": (16, 16), "num_slots": 3, "slot_size": 8, "decoder": "small", "small_init": False},
}
DIVERGED = r"model\.pth: NaN or infinity in what it makes of {}\. The training has diverged: give an earlier checkpoint"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no weights of LPIPS"))


@pytest.fixture
def weight(tmp_path: Path) -> Path:
    """Of an untrained Slot Attention for 16x16 pixels."""
    torch.manual_seed(0)
    inputs = {"kind": "images", "size": [16, 16]}
    record = RunRecord("emorl", "emorl.models:build_model", ARGUMENTS, {}, seed=1, checkpoints={}, inputs=inputs)
    save(tmp_path / "model.pth", {"step": 9, "model": record.build().state_dict(), "run": record.to_dict()})
    return tmp_path / "model.pth"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "mine", 30, (16, 16), tmp_path / "mine/masks")


Scores = Callable[..., tuple[dict[str, Any], bool]]


@pytest.fixture
def scores(weight: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> Scores:
    """The result of one pair, and whether it was scored by this call."""
    results = Results(tmp_path / "evaluation")

    def score(**changes: Any) -> tuple[dict[str, Any], bool]:
        options = replace(Options(Protocol()), **changes)
        pairs = open_pairs([Subject.open(weight)], [f"folder:{pictures}"], options)
        capsys.readouterr()
        (result,) = evaluate(pairs, results, options, Accelerator(cpu=True), torch.device("cpu"))
        assert list(results.read()) == [result["key"]]
        return result, "already scored" not in capsys.readouterr().out

    return score


def test_data_that_have_changed_are_scored_anew(scores: Scores, pictures: Path) -> None:
    before, is_new = scores()
    assert (is_new, before["num_samples"], scores()) == (True, 3, (before, False))
    write_pictures(pictures, 30, (20, 20), pictures / "masks")
    after, is_new = scores()
    assert is_new
    assert after["key"] == before["key"]
    assert after["content"] != before["content"]
    assert after["scores"]["fg_ari"]["mean"] != before["scores"]["fg_ari"]["mean"]


def test_masks_are_content_too(pictures: Path) -> None:
    spec = DataSpec.parse(f"folder:{pictures}")
    before = content_of(spec.open_whole("test"))
    assert content_of(spec.open_whole("test")) == before
    mask = pictures / "masks/picture_30.png"
    Image.fromarray(np.asarray(Image.open(mask)).T.copy()).save(mask)
    assert content_of(spec.open_whole("test")) != before
    assert content_of(spec.open_whole("test"), limit=2) != before


def test_rows_of_changed_data_are_not_continued(scores: Scores, pictures: Path, tmp_path: Path) -> None:
    result, _ = scores()
    rows = Results(tmp_path / "evaluation").rows(result["key"], "another", 0)
    rows.add([0, 1, 2], {"fg_ari": torch.full((3,), 7.0)})
    again, is_new = scores(again=True)
    assert is_new
    assert again["scores"] == result["scores"]
    assert not (tmp_path / "evaluation/partial").exists()


def test_lpips_is_scored_when_its_weights_have_come(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    def distance(recon: Tensor, video: Tensor) -> Tensor:
        return torch.full((len(recon),), 0.25)

    without, _ = scores()
    assert (without["lpips"], "lpips" in without["scores"]) == (False, False)
    monkeypatch.setattr(evaluation, "_lpips", lambda device: distance)
    found, is_new = scores()
    assert is_new
    assert (found["lpips"], found["scores"]["lpips"]["mean"], found["scores"]["lpips"]["n"]) == (True, 0.25, 3)
    monkeypatch.undo()
    assert scores()[1] is False


def test_a_relative_folder_is_told_by_its_place(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures.parent)
    assert root_of(DataSpec.parse("folder:mine"), None) == str(pictures)
    assert root_of(DataSpec.parse("tetrominoes"), Path("mine")) == str(pictures)
    assert root_of(DataSpec.parse("tetrominoes"), None) is None


def spoil(weight: Path, name: str) -> None:
    state = load(weight)
    state["model"][name].fill_(float("nan"))
    save(weight, state)


def test_a_model_that_has_diverged_has_no_result(scores: Scores, weight: Path, pictures: Path, tmp_path: Path) -> None:
    spoil(weight, next(name for name in load(weight)["model"] if name.endswith("weight")))
    named = ", ".join(f"sample {number} of folder:{pictures}" for number in range(3))
    with pytest.raises(CheckpointError, match=DIVERGED.format(named)):
        scores()
    assert not Results(tmp_path / "evaluation").path.exists()
    subject = Subject.open(weight)
    for source in (pictures, write_frame_folders(tmp_path / "clips", 1, 2, (16, 16))):
        with pytest.raises(CheckpointError, match=DIVERGED.format(f"{source}/.*")):
            predict(subject, source, tmp_path / "out" / source.name, Settings())
    with pytest.raises(CheckpointError, match=DIVERGED.format("sample 0")):
        draw_gallery(subject, DataSpec.parse(f"folder:{pictures}"), 1)


def test_only_samples_that_are_not_finite_are_named(weight: Path) -> None:
    masks = torch.full((3, 2, 4, 5, 5), 0.25)
    subject = Subject.open(weight)
    subject.require_finite(masks, ["a", "b", "c"])
    masks[1, 1, 0, 2, 2] = float("inf")
    with pytest.raises(CheckpointError, match=DIVERGED.format("b")):
        subject.require_finite(masks, ["a", "b", "c"])


def test_what_is_written_about_inputs_that_are_gone_is_removed(weight: Path, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "few", 3, (16, 16))
    clips = write_frame_folders(tmp_path / "clips", 2, 3, (16, 16))
    out, subject = tmp_path / "out", Subject.open(weight)
    predict(subject, source, out / "few", Settings())
    predict(subject, clips, out / "clips", Settings())
    before = {path.relative_to(out) for path in out.rglob("*")}
    (out / "few/mine.txt").touch()
    (source / "picture_3.png").unlink()
    (clips / "clip_1/frame_3.png").unlink()
    shutil.rmtree(clips / "clip_2")
    predict(subject, source, out / "few", Settings())
    predict(subject, clips, out / "clips", Settings())
    after = {path.relative_to(out) for path in out.rglob("*")}
    of_clip = {f"{part}/clip_2.mp4" for part in ("overlays", "reconstructions")} | {"panels/clip_2.png", "masks/clip_2"}
    masks = {f"masks/clip_2/{number:06d}.png" for number in range(3)} | {"masks/clip_1/000002.png"}
    parts = ("masks", "overlays", "reconstructions", "panels")
    gone = {f"few/{part}/picture_3.png" for part in parts} | {f"clips/{name}" for name in of_clip | masks}
    assert {str(path) for path in before - after} == gone
    assert {str(path) for path in after - before} == {"few/mine.txt"}
