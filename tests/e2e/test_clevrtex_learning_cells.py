"""What the models with an object in every cell of a grid learn in minutes.

GNM tiles the picture at first, and counts objects after some 3000 steps. SPACE counts if its windows are large enough
for the objects, whose edges the boundary loss keeps away from a window's, if the background cannot have them, and if
the likelihood takes the objects' share as given at first.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.metrics.segmentation import foreground_ari, foreground_ari_of_blocks
from core.runs import load_model
from core.types import Decomposition
from tests.clevrtex_runs import folder_of, losses
from tests.conftest import Runner
from tests.learning_scores import best_constant_count, count_scores, held_out, visible_objects
from tests.toy_sprites import write_multi_dsprites

DATA = "multi_dsprites"


@dataclass(frozen=True)
class Training:
    """`most` shapes of `canvas` pixels in pictures of `side`, each of a grey from the first of `greys` to the second.

    `loss_drop`: how far the loss falls at least, in nats per image, from its first tenth to its last;
    `error`: squared error of reconstructions, at most this share of the mean picture's.
    """

    side: int
    canvas: int
    most: int
    greys: tuple[int, int]
    loss_drop: float
    error: float
    flags: tuple[object, ...]


TRAININGS = {
    # A smaller standard deviation than published makes appearances matter within a few hundred steps.
    "gnm": Training(
        side=64,
        canvas=20,
        most=4,
        greys=(25, 178),  # a grey of its own is what every picture has most to tell
        loss_drop=3000.0,
        error=0.5,
        flags=("--std", 0.1, "--optim", "adam", "--learning_rate", 3e-4, "--batch_size", 8, "--max_steps", 3200),
    ),
    "space": Training(
        side=32,
        canvas=10,
        most=3,
        greys=(0, 0),
        loss_drop=1500.0,
        error=0.6,
        flags=(
            *("--bg_components", 1, "--scale_start", 0.0, "--fixed_alpha_steps", 300, "--learning_rate", 3e-4),
            *("--background_learning_rate", 1e-4, "--batch_size", 8, "--max_steps", 1500),
        ),
    ),
}


@torch.no_grad()
def decompositions(folder: Path, images: Tensor) -> list[Decomposition]:
    model, _ = load_model(folder)
    torch.manual_seed(0)
    return [model.decompose({"image": part}) for part in images.split(20)]


@pytest.mark.slow
@pytest.mark.parametrize("model", TRAININGS)
def test_grid_of_objects_learns(run: Runner, tmp_path: Path, model: str) -> None:
    """Nine minutes on one core each."""
    training, root, out = TRAININGS[model], tmp_path / "data", tmp_path / "out"
    write_multi_dsprites(
        root, count=4000, side=training.side, most=training.most, canvas=training.canvas, greys=training.greys
    )
    words = (f"clevrtex/experiments/{model}.py", "run", "--data", DATA, "--data_root", root, "--dir", out)
    more = ("--resident", "--workers", "no", "--quiet", "--nowatermark", "--log_every", 10)
    done = run(*words, *training.flags, *more, timeout=1800)
    assert done.returncode == 0, done.stderr
    folder = folder_of(model, out)
    history = losses(folder)
    tenth = len(history) // 10
    first, last = np.mean(history[:tenth]), np.mean(history[-tenth:])

    batch = held_out(DATA, root)
    images, masks = batch["image"], batch["mask"].long()
    found = decompositions(folder, images)
    error = float((torch.cat([part.recon for part in found]) - images).square().mean())
    error_of_mean = float((images.mean(dim=0) - images).square().mean())
    true = visible_objects(masks)
    off, share = count_scores(torch.cat([part.extras["counts"] for part in found]), true)
    least_off, largest_share = best_constant_count(true)
    # The object that covers most of a pixel, whatever the background has of it.
    labels = torch.cat([part.masks[:, 1:].argmax(dim=1) for part in found])
    score, baseline = float(foreground_ari(masks, labels).nanmean()), float(foreground_ari_of_blocks(masks))
    print(f"\n{model}: loss {first:.0f} to {last:.0f}, error {error:.4f}, of the mean picture {error_of_mean:.4f}")
    print(f"counts off by {off:.2f}, right {share:.2f}; best constants {least_off:.2f}, {largest_share:.2f}")
    print(f"FG-ARI {score:.2f}, blocks {baseline:.2f}")
    assert first - last > training.loss_drop
    assert error < training.error * error_of_mean
    assert share > largest_share + 0.2
    assert off < 0.75 * least_off
