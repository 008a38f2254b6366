"""The benchmark's protocol on made-up masks and pictures: what counts, at which resolution, over which frames."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.benchmark.protocol import Protocol, reconstruction_of, scores_of, segmentation_of, slot_usage_of
from core.benchmark.resizing import labels_at, resized
from core.types import Decomposition

HALVES = torch.tensor([[1, 1, 2, 2]]).expand(4, 4)
"""Two objects, left and right."""


def masks_of(labels: Tensor, num_slots: int) -> Tensor:
    """Hard masks (B, T, K, H, W) of labels (B, T, H, W)."""
    return F.one_hot(labels, num_slots).movedim(-1, 2).float()


def test_objects_that_change_their_slots_are_right_in_every_frame_and_wrong_in_the_video():
    truth = torch.stack([HALVES, HALVES])[None]
    predicted = torch.stack([HALVES, 3 - HALVES])[None]
    scores = segmentation_of(masks_of(predicted, 3), truth)
    for name in ("fg_ari", "ari", "miou", "mbo"):
        assert scores[name].tolist() == [1.0]
    # Every object is half in either slot: no pair of pixels tells more than chance would.
    assert scores["video_fg_ari"].item() == pytest.approx(-1 / 30)
    assert scores["video_miou"].item() == pytest.approx(1 / 3)
    assert scores["video_mbo"].item() == pytest.approx(1 / 3)


def test_a_picture_has_no_scores_of_videos():
    scores = segmentation_of(masks_of(HALVES[None, None], 3), HALVES[None, None])
    assert set(scores) == {"fg_ari", "ari", "miou", "mbo"}


def test_what_is_undefined_is_left_out():
    empty, whole, split = torch.zeros(4, 4).long(), torch.ones(4, 4).long(), HALVES
    truth = torch.stack([empty, whole, whole])[:, None]
    predicted = torch.stack([split, split * 0, split])[:, None]
    scores = segmentation_of(masks_of(predicted, 3), truth)
    assert [math.isnan(value) for value in scores["fg_ari"]] == [True, False, False]
    assert scores["fg_ari"][1:].tolist() == [1.0, 0.0]
    assert math.isnan(scores["miou"][0])
    assert math.isnan(scores["mbo"][0])
    assert scores["ari"][0] == 0


def test_frames_without_objects_do_not_count():
    truth = torch.stack([HALVES * 0, HALVES])[None]
    scores = segmentation_of(masks_of(torch.stack([HALVES, HALVES])[None], 3), truth)
    assert scores["fg_ari"].tolist() == [1.0]
    assert scores["video_fg_ari"].tolist() == [1.0]


def test_what_is_predicted_on_the_background_does_not_count_for_objects_alone():
    truth = torch.tensor([[0, 0, 1, 2]]).expand(4, 4)[None, None]
    ones, twos = (torch.tensor([[1, left, 1, 2]]).expand(4, 4)[None, None] for left in (1, 2))
    first, second = (segmentation_of(masks_of(labels, 3), truth) for labels in (ones, twos))
    assert first["fg_ari"] == second["fg_ari"] == 1
    assert first["ari"] != second["ari"]
    assert first["miou"] < 1


def test_pixels_of_several_objects_are_no_ones():
    truth, overlap = HALVES[None, None], torch.zeros(1, 1, 4, 4).long()
    wrong = HALVES.clone()
    wrong[0] = 1
    masks = masks_of(wrong[None, None], 3)
    assert segmentation_of(masks, truth)["fg_ari"] < 1
    overlap[..., 0, :] = 1
    assert segmentation_of(masks, truth, overlap)["fg_ari"] == 1


def test_masks_are_resized_while_they_are_soft():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 3, 4, 8, 6, generator=generator).softmax(dim=2)
    found = labels_at(masks, (20, 15))
    soft = F.interpolate(masks.flatten(0, 1), (20, 15), mode="bilinear", antialias=True, align_corners=False)
    assert torch.equal(found, soft.argmax(dim=1).view(2, 3, 20, 15))
    hard = F.one_hot(masks.argmax(dim=2), 4).movedim(-1, 2).float()
    assert not torch.equal(found, labels_at(hard, (20, 15)))


def test_nothing_is_resized_that_has_the_size():
    pictures = torch.rand(1, 2, 3, 5, 7)
    assert resized(pictures, (5, 7)) is pictures


def test_labels_keep_their_resolution():
    truth = torch.ones(1, 1, 32, 32).long()
    truth[..., 16:] = 2
    coarse = masks_of(HALVES[None, None], 3)
    assert segmentation_of(coarse, truth)["fg_ari"] == 1
    truth[..., 0, 0] = 2
    assert segmentation_of(coarse, truth)["fg_ari"] < 1


def test_slots_are_used_from_half_a_percent_on():
    owners = torch.zeros(1, 1, 20, 20).long()
    owners[..., 0, :2] = 1
    owners[..., 1, 0] = 2
    usage = slot_usage_of(masks_of(owners, 5), 0.005)
    assert usage["slots_used"].tolist() == [2.0]
    shares = torch.tensor([397, 2, 1]).double() / 400
    assert usage["slot_entropy"].item() == pytest.approx(float(-(shares * shares.log()).sum()))


def test_reconstructions_are_compared_at_the_models_resolution():
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(2, 3, 3, 24, 24, generator=generator)
    small = resized(video, (12, 12))
    recon = (small + 0.1).clamp(0, 1)
    recon[0, 0] = small[0, 0]
    scores = reconstruction_of(recon, video)
    errors = (recon.double() - small.double()).square().mean(dim=(2, 3, 4))
    assert torch.allclose(scores["mse"], errors.mean(dim=1))
    # The first frame is an exact copy, whose PSNR is infinite.
    psnr = -10 * errors.log10()
    assert scores["psnr"].tolist() == pytest.approx([psnr[0, 1:].mean().item(), psnr[1].mean().item()])
    assert set(scores) == {"mse", "psnr", "ssim"}
    recon[1, 0, 0, 0, 0] = math.nan
    spoiled = reconstruction_of(recon, video)
    assert {name: values.isnan().tolist() for name, values in spoiled.items()} == {
        name: [False, True] for name in scores
    }
    assert set(reconstruction_of(recon[..., :8], video)) == {"mse", "psnr"}


def test_the_perceptual_distance_gets_pictures_from_minus_one_to_one():
    def lpips(recon: Tensor, video: Tensor) -> Tensor:
        assert recon.shape == (4, 3, 12, 12)
        assert (recon.min(), video.max()) == (-1, 1)
        return torch.arange(4.0)

    scores = reconstruction_of(torch.zeros(2, 2, 3, 12, 12), torch.ones(2, 2, 3, 12, 12), lpips)
    assert scores["lpips"].tolist() == [0.5, 2.5]


def test_masks_alone_have_no_scores_of_pictures():
    masks = masks_of(HALVES[None, None], 3)
    video = torch.rand(1, 1, 3, 4, 4)
    without = scores_of(Protocol(), masks, video, HALVES[None, None])
    assert {"fg_ari", "slots_used"} < set(without)
    assert "mse" not in without
    found = scores_of(Protocol(), Decomposition(recon=video, masks=masks), video, None)
    assert set(found) == {"mse", "psnr", "slots_used", "slot_entropy"}


def test_every_choice_changes_the_protocols_key_and_stands_in_its_text():
    protocols = [Protocol(), Protocol(frames=6), Protocol(split="val"), Protocol(pictures=False)]
    assert len({protocol.key for protocol in protocols}) == 4
    assert Protocol().key == Protocol().key
    assert str(Protocol(frames=6)).startswith(f"objectcentric-1 ({protocols[1].key}): split test, the first 6 frames")
    assert "true label 0 is background" in str(Protocol())
