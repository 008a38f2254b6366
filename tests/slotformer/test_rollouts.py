"""Roll-outs in phases, the baselines beside them, and how predictions are decoded, scored and drawn."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from core.metrics.video_prediction import StepMeans
from slotformer.framework.frame_grids import PALETTE
from slotformer.video_prediction import build_model, evaluation
from slotformer.video_prediction.evaluation import (
    COPY,
    MEANINGS,
    MODEL,
    TRUE_SLOTS,
    VELOCITY,
    Drawn,
    constant_velocity,
    over_steps,
    predict,
    score,
    score_batch,
    true_objects,
)
from slotformer.video_prediction.models.slotformer import SlotFormer
from slotformer.video_prediction.prediction_videos import draw_boxes, prediction_videos, strip, strip_times
from slotformer.video_prediction.rollouts import interleaved_rollout
from slotformer.video_prediction.test_vp import table, write_scores
from tests.dynamics_runs import small_params

SEEN, PREDICTED = 3, 4


def numbered_slots(num_videos: int, num_frames: int) -> Tensor:
    """Slots (B, T, 2, 3) that say of which frame they are, and in their last entry of which video and slot."""
    slots = torch.arange(num_frames).float().view(1, -1, 1, 1).repeat(num_videos, 1, 2, 3)
    slots[..., 2] = torch.arange(2 * num_videos).float().view(num_videos, 1, 2)
    return slots


# Roll-outs of every n-th frame


@pytest.mark.parametrize("frame_offset", [1, 2, 3])
@pytest.mark.parametrize("num_frames", [11, 16, 18])
def test_phases_take_turns(frame_offset: int, num_frames: int) -> None:
    asked = []

    def count_on(past: Tensor, num_steps: int) -> Tensor:
        asked.append((tuple(past.shape), num_steps))
        assert torch.equal(past[:, 1:, :, 0] - past[:, :-1, :, 0], torch.full_like(past[:, 1:, :, 0], frame_offset))
        return constant_velocity(past, num_steps)

    observed = numbered_slots(2, 10)
    found = interleaved_rollout(count_on, observed, 3, frame_offset, num_frames)
    assert torch.equal(found, numbered_slots(2, num_frames))
    # One call for all phases.
    assert asked == [((2 * frame_offset, 3, 2, 3), math.ceil((num_frames - 10) / frame_offset))]


def test_a_model_predicts_phases_as_it_predicts_videos() -> None:
    model, observed = small_model(), torch.randn(2, 8, 3, 16)
    with torch.no_grad():
        found = interleaved_rollout(model.rollout, observed, SEEN, 2, 13)
        phases = [model.rollout(observed[:, 2 + phase :: 2], 3) for phase in range(2)]
    assert torch.equal(found[:, :8], observed)
    torch.testing.assert_close(found[:, 8::2], phases[0])
    torch.testing.assert_close(found[:, 9::2], phases[1][:, :2])


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="5 observed frames, but history_len=3 and frame_offset=2 need 6"):
        interleaved_rollout(constant_velocity, numbered_slots(1, 5), 3, 2, 8)


# Predictions and baselines


def small_model() -> SlotFormer:
    torch.manual_seed(0)
    return build_model(small_params("slotformer_obj3d_params")).eval()


def clips_of(model: SlotFormer) -> dict[str, Tensor]:
    """Two clips whose frames from the observed ones on are what the decoder makes of their slots."""
    torch.manual_seed(1)
    slots = torch.randn(2, SEEN + PREDICTED, 3, 16)
    with torch.no_grad():
        return {"slots": slots, "video": (model.decode(slots).recon / 2 + 0.5).clamp(0, 1)}


def test_slots_go_on_as_they_went() -> None:
    assert torch.equal(constant_velocity(numbered_slots(2, 4), 5), numbered_slots(2, 9)[:, 4:])
    alone = numbered_slots(2, 1)
    assert torch.equal(constant_velocity(alone, 3), alone.repeat(1, 3, 1, 1))


def test_methods_decode_their_slots() -> None:
    model = small_model()
    batch = clips_of(model)
    past, future = batch["slots"][:, :SEEN], batch["slots"][:, SEEN:]
    with torch.no_grad():
        found = predict(model, batch)
        expected = {
            MODEL: model.rollout(past, PREDICTED),
            VELOCITY: constant_velocity(past, PREDICTED),
            TRUE_SLOTS: future,
        }
        assert found.keys() == expected.keys() | {COPY} == MEANINGS.keys()
        for name, slots in expected.items():
            torch.testing.assert_close(found[name].recon, model.decode(slots).recon)
        last = evaluation.draw(model, past[:, -1:])
    frames = 2 * batch["video"][:, SEEN - 1 : SEEN] - 1
    assert torch.equal(found[COPY].recon, frames.repeat(1, PREDICTED, 1, 1, 1))
    assert torch.equal(found[COPY].labels, last.labels.repeat(1, PREDICTED, 1, 1))


def test_parts_of_decoding_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, slots = small_model(), torch.randn(2, 3, 3, 16)
    with torch.no_grad():
        together = evaluation.draw(model, slots)
        monkeypatch.setitem(evaluation.FRAMES_AT_A_TIME, "cpu", 4)
        parts = evaluation.draw(model, slots)
    assert parts.labels.dtype == torch.uint8
    torch.testing.assert_close(parts.recon, together.recon)
    assert torch.equal(parts.labels, together.labels)


# Scores


def mean_difference(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean(dim=(1, 2, 3))


def test_the_frames_after_the_observed_ones_are_scored() -> None:
    model = small_model()
    batch = clips_of(model)
    with torch.no_grad():
        scores = score_batch(model, batch, mean_difference)
        predicted = model.decode(model.rollout(batch["slots"][:, :SEEN], PREDICTED)).recon
    assert scores.keys() == MEANINGS.keys()
    for of in scores.values():
        assert list(of) == ["mse", "ssim", "psnr", "percept_dist"]
        assert {tuple(values.shape) for values in of.values()} == {(2, PREDICTED)}
    assert scores[TRUE_SLOTS]["mse"].max() < 1e-6
    assert scores[TRUE_SLOTS]["ssim"].min() > 0.9999
    frames = batch["video"][:, SEEN:]
    by_hand = ((predicted / 2 + 0.5).clamp(0, 1) - frames).square().sum(dim=(3, 4)).mean(dim=2)
    torch.testing.assert_close(scores[MODEL]["mse"].float(), by_hand)
    expected = (predicted - 2 * frames + 1).abs().mean(dim=(2, 3, 4))
    torch.testing.assert_close(scores[MODEL]["percept_dist"].float(), expected)


def square_labels() -> Tensor:
    """Two frames of 16x16 with two objects that do not touch."""
    labels = torch.zeros(1, 2, 16, 16, dtype=torch.uint8)
    labels[:, :, 2:6, 3:8] = 1
    labels[:, 1, 9:15, 9:14] = 2
    return labels


def test_objects_are_scored_where_masks_are_known() -> None:
    labels, frames = square_labels(), torch.zeros(1, 2, 3, 16, 16)
    objects = true_objects({"mask": labels})
    assert objects.boxes[0, 1].tolist() == [[3, 2, 7, 5], [9, 9, 13, 14]]
    assert objects.visible.tolist() == [[[True, False], [True, True]]]
    perfect = score(Drawn(frames, labels), frames, objects, 3)
    assert {name: perfect[name].tolist() for name in ("ari", "fari", "miou", "ar")} == {
        name: [[pytest.approx(1)] * 2] for name in ("ari", "fari", "miou", "ar")
    }
    assert perfect["ap"].tolist() == [[0.5, pytest.approx(2 / 3)]], "the background has a box, too"
    assert true_objects({"slots": frames}) is None
    assert "ari" not in score(Drawn(frames, labels), frames, None, 3)
    zeros = score(Drawn(frames, labels), frames, None, 3, as_original=True)
    assert all(zeros[name].tolist() == [[0, 0]] for name in ("ari", "fari", "miou", "ap", "ar"))


def test_boxes_of_a_data_set_go_before_those_of_masks() -> None:
    boxes, visible = torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, dtype=torch.bool)
    objects = true_objects({"mask": square_labels(), "bbox": boxes, "visible": visible})
    assert objects.boxes is boxes
    assert objects.visible is visible


def test_truth_of_the_observed_frames_is_left_out() -> None:
    model = small_model()
    batch = clips_of(model)
    batch["mask"] = torch.zeros(2, SEEN + PREDICTED, 64, 64, dtype=torch.uint8)
    batch["mask"][:, SEEN:, 8:24, 8:24] = 1
    with torch.no_grad():
        scores = score_batch(model, batch)
    assert scores[MODEL]["fari"].isfinite().all()
    batch["mask"][:, SEEN:] = 0
    with torch.no_grad():
        none = score_batch(model, batch)
        original = score_batch(model, batch, as_original=True)
    assert none[MODEL]["fari"].isnan().all()
    assert (original[MODEL]["fari"] == 1).all()


def test_mean_over_steps() -> None:
    means = torch.tensor([1.0, math.nan, 3.0], dtype=torch.float64)
    assert over_steps(means) == 2
    assert math.isnan(over_steps(means, as_original=True))


def test_scores_that_are_left_out_leave_no_files(tmp_path) -> None:
    described = {"as_original": False, "num_clips": 1, "input_frames": 3, "rollout_len": 2, "dataset": "obj3d_slots"}
    for names in (("mse", "fari"), ("mse",)):
        means = StepMeans()
        means.update({name: torch.ones(1, 2, dtype=torch.float64) for name in names})
        write_scores(tmp_path / "vis", tmp_path / "scores.json", {MODEL: means}, described)
        assert {path.stem for path in (tmp_path / "vis").iterdir()} == set(names)


def test_table() -> None:
    lines = table({"a": {"mse": 1.23456, "ari": math.nan}, "b c": {"mse": 100.0, "ari": 0.5}})
    assert [line.split() for line in lines] == [
        ["a", "b", "c"],
        ["mse", "1.2346", "100.0000"],
        ["ari", "nan", "0.5000"],
    ]


# Pictures


def test_boxes_are_drawn_around_their_pixels() -> None:
    boxes = torch.tensor([[[[1.0, 2, 5, 4], [-1, -1, -1, -1], [6, 0, 6, 7]]]])
    drawn = draw_boxes(torch.zeros(1, 1, 3, 8, 8), boxes)[0, 0]
    painted = drawn.amax(dim=0) > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:5, 1:6] = True
    expected[3, 2:5] = False
    expected[:, 6] = True
    assert torch.equal(painted, expected)
    assert (255 * drawn[:, 2, 1]).tolist() == list(PALETTE[0])
    assert (255 * drawn[:, 7, 6]).tolist() == list(PALETTE[2])


def test_strip_begins_with_the_last_observed_frame() -> None:
    assert strip_times(6, 50).tolist() == [5, 10, 15, 20, 25, 29, 34, 39, 44, 49]
    assert strip_times(3, 5).tolist() == [2, 3, 4]
    rows = [torch.full((2, 5, 3, 4, 6), value) for value in (0.2, 0.4)]
    picture = strip(rows, np.array([2, 3, 4]))
    assert picture.shape == (4 * (4 + 2) + 2, 3 * (6 + 2) + 2, 3)
    assert picture[2 :: 4 + 2, 2, 0].tolist()[:4] == [51, 102, 51, 102]


@pytest.mark.parametrize("with_masks", [True, False])
def test_videos_show_observed_frames_too(with_masks: bool) -> None:
    model = small_model()
    batch = clips_of(model)
    if with_masks:
        batch["mask"] = torch.ones(2, SEEN + PREDICTED, 64, 64, dtype=torch.uint8)
    with torch.no_grad():
        videos, picture = prediction_videos(model, batch)
    assert videos.keys() == ({"", "_mask", "_bbox"} if with_masks else {""})
    assert {tuple(video.shape) for video in videos.values()} == {(SEEN + PREDICTED, 3, 2 * 68, 2 * 68)}
    colours = [tuple(frame[:, 68, 0].mul(10).round().tolist()) for frame in videos[""]]
    assert colours == [(0, 7, 0)] * SEEN + [(7, 0, 0)] * PREDICTED
    # What the model has seen is shown as its slots are decoded, and the clips were made so.
    assert torch.allclose(videos[""][:SEEN, :, 2:66, 2:66], videos[""][:SEEN, :, 70:134, 2:66], atol=1e-5)
    assert picture.shape[0] == 2 * (4 if with_masks else 3) * 66 + 2
