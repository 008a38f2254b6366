"""What learning checks measure on held-out pictures, and guesses that know nothing of a picture to compare it with."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.loader import Batch
from core.data.spec import DataSpec


def held_out(data: str, root: Path) -> Batch:
    """All pictures of the validation as a model sees them, and their masks."""
    spec = DataSpec.parse(data)
    source = spec.open("val", root, masks=True)
    batch = source.read(np.arange(len(source)))
    return spec.recolour(batch | {"image": batch["image"].float() / 255})


def visible_objects(masks: Tensor) -> Tensor:
    """How many objects every one of the masks (B, H, W) shows."""
    return torch.tensor([len(mask.unique()) - 1 for mask in masks])


def count_scores(counts: Tensor, true: Tensor) -> tuple[float, float]:
    """Mean absolute error of the counts, and the share of those that are right."""
    return float((counts - true).abs().double().mean()), float((counts == true).double().mean())


def best_constant_count(true: Tensor) -> tuple[float, float]:
    """The same scores of always the same guess, each of the guess that it is best for."""
    errors, shares = zip(*(count_scores(torch.tensor(guess), true) for guess in range(int(true.max()) + 1)))
    return min(errors), max(shares)
