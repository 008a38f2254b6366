"""What is logged: the same numbers in TensorBoard and in the JSON lines, each step once, whatever is interrupted."""

import importlib
import io
import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.training.tracking import Tracker, require_wandb


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "scalars.jsonl").read_text().splitlines()]


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def curve(folder: Path, name: str) -> dict[int, float]:
    """Step -> value; every step must be there once."""
    points = [(event.step, event.value) for event in events(folder).Scalars(name)]
    assert len(dict(points)) == len(points)
    return dict(points)


def row(step: int) -> dict:
    return {"train/loss": torch.tensor(1 / (step + 1)), "train/steps": torch.tensor(step), "train/lr": 0.1 * step}


def log(folder: Path, steps: range, resumed_after: int | None = None, **more) -> Tracker:
    tracker = Tracker(folder, resumed_after, **more)
    for step in steps:
        tracker.scalars(step, row(step))
    return tracker


def test_tensorboard_and_json_lines_hold_the_same_numbers(tmp_path):
    log(tmp_path, range(0, 50, 5)).close()
    written = lines(tmp_path)
    assert [list(line) for line in written] == [["step", "train/loss", "train/steps", "train/lr"]] * 10
    for line in written:
        expected = {name: float(value) for name, value in row(line["step"]).items()}
        assert line == {"step": line["step"]} | expected
    assert set(events(tmp_path).Tags()["scalars"]) == {"train/loss", "train/steps", "train/lr"}
    for name in ("train/loss", "train/steps", "train/lr"):
        # TensorBoard keeps single precision.
        assert curve(tmp_path, name) == {line["step"]: float(np.float32(line[name])) for line in written}


def test_single_precision_is_written_exactly(tmp_path):
    value = torch.tensor(0.1)
    tracker = Tracker(tmp_path)
    tracker.scalars(0, {"a": value})
    tracker.close()
    assert torch.tensor(lines(tmp_path)[0]["a"]) == value
    assert lines(tmp_path)[0]["a"] != 0.1


def test_what_is_no_number_can_be_logged(tmp_path):
    tracker = Tracker(tmp_path)
    tracker.scalars(0, {"a": torch.tensor(float("inf")), "b": float("nan")})
    tracker.close()
    assert lines(tmp_path)[0]["a"] == float("inf")
    assert np.isnan(lines(tmp_path)[0]["b"])


def test_nothing_is_copied_before_flush(tmp_path):
    tracker = Tracker(tmp_path)
    value = torch.tensor(1.0)
    for step in range(Tracker.FLUSH_EVERY - 1):
        tracker.scalars(step, {"a": value})
    assert lines(tmp_path) == []
    # Had the value been copied when it was given, this would come too late.
    value.fill_(2.0)
    tracker.scalars(Tracker.FLUSH_EVERY - 1, {"a": value})
    assert [line["a"] for line in lines(tmp_path)] == [2.0] * Tracker.FLUSH_EVERY
    tracker.close()


def test_flush_returns_the_newest_row_and_hands_every_row_on(tmp_path):
    received = []
    tracker = log(tmp_path, range(3), also=lambda step, values: received.append((step, values["train/steps"])))
    assert tracker.flush() == {"step": 2, "train/loss": pytest.approx(1 / 3), "train/steps": 2.0, "train/lr": 0.2}
    assert received == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert tracker.flush() == {}
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2]
    tracker.close()


def test_rows_may_hold_other_scalars_than_those_before(tmp_path):
    tracker = Tracker(tmp_path)
    tracker.scalars(0, {"a": torch.tensor(1.0)})
    tracker.scalars(1, {"b": 2.0})
    tracker.scalars(2, {"a": torch.tensor(3.0), "b": torch.tensor(4)})
    tracker.close()
    assert lines(tmp_path) == [{"step": 0, "a": 1.0}, {"step": 1, "b": 2.0}, {"step": 2, "a": 3.0, "b": 4.0}]


@pytest.mark.parametrize("resumed_after", [0, 12, 29])
def test_a_resumed_run_cuts_both_records_back(tmp_path, resumed_after):
    log(tmp_path, range(30)).flush()
    resumed = Tracker(tmp_path, resumed_after)
    assert [line["step"] for line in lines(tmp_path)] == list(range(resumed_after + 1))
    for step in range(resumed_after + 1, 40):
        resumed.scalars(step, {"train/loss": torch.tensor(-float(step))})
    resumed.close()
    assert [line["step"] for line in lines(tmp_path)] == list(range(40))
    found = curve(tmp_path, "train/loss")
    assert sorted(found) == list(range(40))
    for step, value in found.items():
        assert value == (-float(step) if step > resumed_after else float(np.float32(1 / (step + 1))))


def test_three_resumptions_in_a_row(tmp_path):
    log(tmp_path, range(10)).flush()
    log(tmp_path, range(8, 13), 7).flush()
    log(tmp_path, range(3, 20), 2).flush()
    log(tmp_path, range(20, 25), 19).close()
    assert [line["step"] for line in lines(tmp_path)] == list(range(25))
    assert sorted(curve(tmp_path, "train/lr")) == list(range(25))


@pytest.mark.parametrize("cut", [1, 2, 20, 70])
def test_a_half_written_last_line_is_dropped(tmp_path, cut):
    log(tmp_path, range(6)).flush()
    path = tmp_path / "scalars.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    complete = whole[:-cut].count(b"}")
    log(tmp_path, range(6, 8), 5).close()
    assert [line["step"] for line in lines(tmp_path)] == [*range(complete), 6, 7]


def test_a_damaged_tail_is_dropped(tmp_path):
    log(tmp_path, range(3)).flush()
    path = tmp_path / "scalars.jsonl"
    # What a power failure leaves of a file that was being extended.
    path.write_bytes(path.read_bytes() + b"\0" * 50 + b"\xff\xfe")
    log(tmp_path, range(3, 5), 2).close()
    assert [line["step"] for line in lines(tmp_path)] == list(range(5))


def test_a_fresh_run_keeps_what_stands_in_its_folder(tmp_path):
    log(tmp_path, range(2)).close()
    log(tmp_path, range(2, 4)).close()
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3]


def test_pictures(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    tracker = Tracker(tmp_path)
    tracker.picture(4, "masks", picture)
    tracker.picture(8, "masks", 255 - picture)
    tracker.close()
    found = events(tmp_path)
    assert found.Tags()["images"] == ["masks"]
    first, second = found.Images("masks")
    assert (first.step, first.width, first.height) == (4, 7, 5)
    for event, expected in ((first, picture), (second, 255 - picture)):
        path = tmp_path / f"{event.step}.png"
        path.write_bytes(event.encoded_image_string)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)


def test_pictures_after_the_checkpoint_are_dropped_too(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    tracker = Tracker(tmp_path)
    for step in (0, 5, 10):
        tracker.picture(step, "masks", picture)
    tracker.flush()
    resumed = Tracker(tmp_path, resumed_after=6)
    resumed.picture(10, "masks", picture)
    resumed.close()
    assert [event.step for event in events(tmp_path).Images("masks")] == [0, 5, 10]


def test_videos_play_in_tensorboard(tmp_path):
    frames = torch.zeros(5, 3, 6, 10, dtype=torch.uint8)
    for number, frame in enumerate(frames):
        frame[0, :, : 2 * number] = 40 * number
    tracker = Tracker(tmp_path)
    tracker.video(4, "val/video", frames, fps=4)
    tracker.video(8, "val/video", frames[:2], fps=8)
    tracker.close()
    first, second = events(tmp_path).Images("val/video")
    assert (first.step, first.width, first.height) == (4, 10, 6)
    assert second.step == 8
    with Image.open(io.BytesIO(first.encoded_image_string)) as gif:
        assert (gif.format, gif.n_frames, gif.info["loop"], gif.info["duration"]) == ("GIF", 5, 0, 250)
        for number, frame in enumerate(frames):
            gif.seek(number)
            np.testing.assert_array_equal(np.asarray(gif.convert("RGB")), frame.permute(1, 2, 0))
    with Image.open(io.BytesIO(second.encoded_image_string)) as gif:
        assert (gif.n_frames, gif.info["duration"]) == (2, 120)


def test_videos_after_the_checkpoint_are_dropped_too(tmp_path):
    frames = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    tracker = Tracker(tmp_path)
    for step in (0, 5, 10):
        tracker.video(step, "val/video", frames, fps=8)
    tracker.flush()
    resumed = Tracker(tmp_path, resumed_after=6)
    resumed.video(10, "val/video", frames, fps=8)
    resumed.close()
    assert [event.step for event in events(tmp_path).Images("val/video")] == [0, 5, 10]


WANDB = """
logged, begun = [], []

def init(**settings):
    begun.append(settings)
    return Run()

def Image(image):
    return "picture"

def Video(file, format):
    return "video"

class Run:
    def log(self, values, step):
        logged.append((step, values))

    def finish(self):
        pass
"""
"""Stands for the package, which talks to others; keeps what it is told."""


@pytest.fixture
def service(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)  # restored in the end
    del sys.modules["wandb"]
    return importlib.import_module("wandb")


def test_services_keep_the_curves_of_a_run_together(tmp_path, service):
    for resumed_after in (None, 1, 2, -1):
        Tracker(tmp_path / "tb", resumed_after, {"project": "mine"}).close()
    first, second, third, afresh = (settings["id"] for settings in service.begun)
    assert first == second == third != afresh


def test_services_get_scalars_before_later_pictures(tmp_path, service):
    """What comes with an older step than was seen before would be dropped there."""
    tracker = log(tmp_path / "tb", range(3), wandb_settings={"project": "mine", "id": "tb"})
    tracker.picture(2, "masks", np.zeros((4, 4, 3), np.uint8))
    tracker.scalars(3, {"train/loss": 0.5})
    tracker.video(3, "val/video", torch.zeros(2, 3, 4, 4, dtype=torch.uint8), fps=8)
    tracker.close()
    assert service.begun == [{"resume": "allow", "project": "mine", "id": "tb"}]
    assert [step for step, _ in service.logged] == [0, 1, 2, 2, 3, 3]
    assert service.logged[3] == (2, {"masks": "picture"})
    assert service.logged[5] == (3, {"val/video": "video"})


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if finder is PathFinder])
    with pytest.raises(ValueError, match="Weights & Biases was asked for but is not installed: pip install"):
        require_wandb()


def test_videos_are_checked(tmp_path):
    tracker = Tracker(tmp_path)
    with pytest.raises(ValueError, match="fps above 0 and at most 50, found 60"):
        tracker.video(0, "val/video", torch.zeros(2, 3, 4, 4, dtype=torch.uint8), fps=60)
    with pytest.raises(ValueError, match="at least one frame"):
        tracker.video(0, "val/video", torch.zeros(0, 3, 4, 4, dtype=torch.uint8), fps=8)
    tracker.close()
    assert events(tmp_path).Tags()["images"] == []
