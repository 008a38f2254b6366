"""Pictures of decompositions as the page gets them."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from core.report.drawing import spread_numbers
from core.report.gallery import MOST_FRAMES, MOST_SLOTS, draw_sample, size_on_page
from core.types import Decomposition


def decomposition(slots: int, frames: int, size: tuple[int, int], with_rgb: bool = True) -> Decomposition:
    generator = torch.Generator().manual_seed(slots)
    masks = torch.randn(1, frames, slots, *size, generator=generator).mul(3).softmax(dim=2)
    rgb = torch.rand(1, frames, slots, 3, *size, generator=generator)
    recon = (masks.unsqueeze(3) * rgb).sum(dim=2)
    return Decomposition(recon, masks, rgb if with_rgb else None).validate()


def pixels(uri: str) -> np.ndarray:
    kind, _, text = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")) / 255


def layers_of(sample: dict, name: str) -> np.ndarray:
    """Slots, frames, height, width, channels."""
    height, width, count = sample["height"], sample["width"], len(sample["slots"])
    return pixels(sample[name]).reshape(count, height, sample["frames"], width, 3).transpose(0, 2, 1, 3, 4)


def recomposed(sample: dict) -> np.ndarray:
    return (layers_of(sample, "masks") * layers_of(sample, "rgb")).sum(axis=0)


def strip(sample: dict, name: str) -> np.ndarray:
    found = pixels(sample["strips"][name]).reshape(sample["height"], sample["frames"], sample["width"], 3)
    return found.transpose(1, 0, 2, 3)


def test_layers_add_up_to_the_reconstruction():
    found = decomposition(slots=4, frames=3, size=(10, 14))
    image = torch.rand(3, 3, 10, 14)
    sample = draw_sample(7, image, found, torch.tensor([[[0, 1], [2, 2]]]).expand(3, 2, 2))
    assert (sample["number"], sample["frames"], sample["height"], sample["width"]) == (7, 3, 10, 14)
    assert np.abs(strip(sample, "input") - image.permute(0, 2, 3, 1).numpy()).max() <= 0.51 / 255
    assert np.abs(recomposed(sample) - strip(sample, "reconstruction")).max() < 4 / 255
    assert sum(slot["share"] for slot in sample["slots"]) == pytest.approx(1, abs=1e-3)
    truth = strip(sample, "truth")
    assert (truth[:, :5, :7] == 0).all()  # background is black
    assert np.unique(truth.reshape(-1, 3), axis=0).shape[0] == 3


def test_a_model_without_pictures_of_slots_has_none():
    sample = draw_sample(0, torch.rand(1, 3, 8, 8), decomposition(3, 1, (8, 8), with_rgb=False))
    assert sample["rgb"] is None
    assert "truth" not in sample["strips"]
    assert layers_of(sample, "masks").sum(axis=0) == pytest.approx(np.ones((1, 8, 8, 3)), abs=2 / 255)


def test_the_smallest_slots_become_one_and_nothing_is_lost():
    found = decomposition(slots=MOST_SLOTS + 9, frames=1, size=(16, 16))
    sample = draw_sample(0, torch.rand(1, 3, 16, 16), found)
    assert len(sample["slots"]) == MOST_SLOTS
    assert sample["slots"][-1]["name"] == "10 smaller ones"
    largest = found.masks.mean(dim=(0, 1, 3, 4)).argsort(descending=True)[: MOST_SLOTS - 1].sort().values
    assert [slot["name"] for slot in sample["slots"][:-1]] == [f"slot {slot}" for slot in largest.tolist()]
    assert np.abs(recomposed(sample) - strip(sample, "reconstruction")).max() < 10 / 255


def test_large_pictures_shrink_and_their_layers_still_add_up():
    assert size_on_page(240, 320) == (96, 128)
    assert size_on_page(64, 64) == (64, 64)
    sample = draw_sample(0, torch.rand(1, 3, 240, 320), decomposition(3, 1, (240, 320)))
    assert (sample["height"], sample["width"]) == (96, 128)
    assert np.abs(recomposed(sample) - strip(sample, "reconstruction")).max() < 4 / 255


def test_long_videos_are_cut():
    frames = MOST_FRAMES + 2
    sample = draw_sample(0, torch.rand(frames, 3, 4, 4), decomposition(2, frames, (4, 4)))
    assert sample["frames"] == MOST_FRAMES
    assert pixels(sample["masks"]).shape == (8, 4 * MOST_FRAMES, 3)


def test_another_size_is_refused():
    image: Tensor = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"sample 3: expected a recon of the shape \(1, 1, 3, 8, 8\)"):
        draw_sample(3, image, decomposition(2, 1, (4, 4)))


def test_samples_are_spread_over_the_set():
    assert spread_numbers(100, 4) == [0, 25, 50, 75]
    assert spread_numbers(3, 6) == [0, 1, 2]
