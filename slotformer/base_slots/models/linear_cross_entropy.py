"""Cross entropy of a linear layer over a large vocabulary, whose logits never exist together."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from core.nn.linear import linear
from core.nn.slot_chunks import FLOATS_IN_CACHE
from core.nn.summed_parts import sum_over_parts

FLOATS_TOGETHER = 2**26
"""Logits that exist together on a GPU."""


def linear_cross_entropy(
    features: Float[Tensor, "P D"], weight: Float[Tensor, "V D"], targets: Integer[Tensor, " P"]
) -> Float[Tensor, ""]:
    """Summed cross entropy of the logits `features @ weight.T`, in float32.

    The gradients are made with the loss, few rows at a time, so that neither logits nor their gradients are stored or
    computed twice.
    """

    def summed(rows: Float[Tensor, "P D"], words: Integer[Tensor, " P"]) -> Float[Tensor, ""]:
        return F.cross_entropy(linear(rows, weight).float(), words.long(), reduction="sum")

    return sum_over_parts(summed, (features, targets), (), (weight,), rows_together(len(weight), features.device))


def rows_together(vocab_size: int, device: torch.device) -> int:
    """How many rows of logits exist together: on the CPU so few that they stay in the cache."""
    return max(1, (FLOATS_IN_CACHE if device.type == "cpu" else FLOATS_TOGETHER) // vocab_size)
