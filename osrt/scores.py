"""Scores of predicted rays: PSNR, and the adjusted Rand index of slots and objects, without waiting for the device."""

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from core.metrics.segmentation import adjusted_rand_index_of_table

NUM_LABELS = 256
"""That a uint8 label can name."""


def psnr(mse: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]."""
    return -10 * mse.log10()


def label_counts(true_labels: UInt8[Tensor, "B P"], weights: Float[Tensor, "B P K"]) -> Float64[Tensor, "B 256 K"]:
    """Rays of every scene with true label e and, as the heaviest, slot k. Does not wait for the device."""
    num_scenes, _, num_slots = weights.shape
    cells = true_labels.long() * num_slots + weights.max(dim=-1).indices
    counts = weights.new_zeros(num_scenes, NUM_LABELS * num_slots, dtype=torch.float64)
    counts.scatter_add_(1, cells, torch.ones_like(cells, dtype=torch.float64))
    return counts.view(num_scenes, NUM_LABELS, num_slots)


def ari_of_counts(counts: Float64[Tensor, "B E K"]) -> dict[str, Float64[Tensor, "B"]]:
    """`ari` over all rays, background as one group, and `fg_ari` over those of objects (1 where there are none).

    The rays of all target views of a scene count together, so a slot must be the same object from everywhere. Other
    than in the original, two rays of two objects that are told apart score 1, not NaN.
    """
    return {
        "ari": adjusted_rand_index_of_table(counts, undefined=1.0),
        "fg_ari": adjusted_rand_index_of_table(counts[:, 1:], undefined=1.0),
    }
