"""DTI-Sprites finds the shapes that pictures are made of."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from clevrtex.models.dti_transformations import gaussian_mask
from core.runs import load_model
from tests.conftest import Runner
from tests.toy_sprites import shapes, write_multi_dsprites

FLAGS = ("--slots", 2, "--sprites", 4, "--sprite_size", 16, "--encoder", "small")
SCHEDULE = ("--epochs", 45, "--freeze", 10, "--curriculum", 1000, "--lr", "", "--learning_rate", 1e-3)


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
    write_multi_dsprites(tmp_path)
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
