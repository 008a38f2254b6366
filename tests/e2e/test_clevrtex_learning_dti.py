"""DTI-Sprites finds the shapes that pictures are made of."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from clevrtex.models.dti_transformations import gaussian_mask
from core.runs import load_model
from tests.conftest import Runner

SIDE, CANVAS, COUNT, GREY = 32, 12, 2000, 110
COLOURS = np.array([(230, 60, 50), (60, 200, 80), (70, 90, 240)], np.uint8)
FLAGS = ("--slots", 2, "--sprites", 4, "--sprite_size", 16, "--encoder", "small")
SCHEDULE = ("--epochs", 45, "--freeze", 10, "--curriculum", 1000, "--lr", "", "--learning_rate", 1e-3)


def shapes() -> np.ndarray:
    """A square, a triangle and a cross, (3, 12, 12)."""
    y, x = np.mgrid[:CANVAS, :CANVAS] - (CANVAS - 1) / 2
    square = (abs(x) <= 4) & (abs(y) <= 4)
    triangle = (abs(y) <= 5) & (2 * abs(x) <= y + 5.5)
    cross = (np.minimum(abs(x), abs(y)) <= 1.5) & (np.maximum(abs(x), abs(y)) <= 5.5)
    return np.stack((square, triangle, cross))


def write_pictures(path: Path) -> None:
    """One or two of the shapes, each of one of three colours and anywhere, on even grey."""
    rng = np.random.default_rng(0)
    images = np.full((COUNT, SIDE, SIDE, 3), GREY, np.uint8)
    labels = np.zeros((COUNT, SIDE, SIDE), np.uint8)
    for image, label in zip(images, labels):
        for number in range(1, rng.integers(1, 3) + 1):
            row, column = rng.integers(0, SIDE - CANVAS + 1, 2)
            place, shape = np.s_[row : row + CANVAS, column : column + CANVAS], shapes()[rng.integers(3)]
            image[place][shape], label[place][shape] = COLOURS[rng.integers(3)], number
    with h5py.File(path, "w") as file:
        file["train/imgs"] = images
        file["train/masks"] = 255 * (labels[:, None, :, :, None] == np.arange(3).reshape(1, 3, 1, 1, 1)).astype(
            np.uint8
        )


def centred(mask: Tensor) -> Tensor:
    """A mask (h, w) moved and scaled so that its centre of mass is in the middle and its area is a quarter."""
    fine = F.interpolate(mask.double().clamp(0, 1)[None, None], scale_factor=4, mode="bilinear", align_corners=False)
    weight = fine[0, 0] / fine.sum()
    rows, columns = ((2 * torch.arange(size).double() + 1) / size - 1 for size in weight.shape)
    scale = 2 * float(fine.mean()) ** 0.5
    y, x = float((weight.sum(dim=1) * rows).sum()), float((weight.sum(dim=0) * columns).sum())
    theta = torch.tensor([[scale, 0, x], [0, scale, y]], dtype=torch.float64)
    grid = F.affine_grid(theta[None], [1, 1, 24, 24], align_corners=False)
    return F.grid_sample(fine, grid, align_corners=False)[0, 0]


def matched_correlations(masks: Tensor) -> np.ndarray:
    """Of every true shape and the learnt mask (K, h, w) that it is matched with, whatever their place and size."""
    found = torch.stack([centred(mask).flatten() for mask in masks])
    true = torch.stack([centred(torch.from_numpy(shape)).flatten() for shape in shapes()])
    table = torch.corrcoef(torch.cat((true, found)))[: len(true), len(true) :].numpy()
    return table[linear_sum_assignment(table, maximize=True)]


@pytest.mark.slow
def test_sprites_are_the_shapes(run: Runner, tmp_path: Path) -> None:
    """About a minute."""
    folder = tmp_path / "multi_dsprites"
    folder.mkdir()
    write_pictures(folder / "multi_dsprites_colored_on_grayscale.h5")
    words = ("clevrtex/experiments/dtisprites.py", "run", "--data", "multi_dsprites", "--data_root", tmp_path)
    more = ("--dir", tmp_path / "out", "--resident", "--workers", "no", "--quiet", "--nowatermark")
    done = run(*words, *FLAGS, *SCHEDULE, *more, timeout=900)
    assert done.returncode == 0, done.stderr
    (trained,) = (tmp_path / "out").glob("*/dtis/test")
    model, _ = load_model(trained)
    found = matched_correlations(model.masks.detach()[:, 0])
    blobs = matched_correlations(gaussian_mask(16, 16, 4.0).expand(4, -1, -1))
    print(f"correlations {np.round(found, 3)}, of the blobs that training begins with {np.round(blobs, 3)}")
    assert found.min() > 0.9
    assert (found - blobs).min() > 0.05
