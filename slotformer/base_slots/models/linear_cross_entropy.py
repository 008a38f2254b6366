"""Cross entropy of a linear layer over a large vocabulary, whose logits never exist together."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.nn.linear import linear
from core.nn.products import is_plain, product
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
    size = rows_together(len(weight), features.device)
    if is_plain(features) and features.dtype == weight.dtype:
        return _LinearCrossEntropy.apply(features, weight, targets.long(), size, torch.is_grad_enabled())

    def summed(rows: Float[Tensor, "P D"], words: Integer[Tensor, " P"]) -> Float[Tensor, ""]:
        return F.cross_entropy(linear(rows, weight).float(), words.long(), reduction="sum")

    return sum_over_parts(summed, (features, targets), (), (weight,), size)


def rows_together(vocab_size: int, device: torch.device) -> int:
    """How many rows of logits exist together: on the CPU so few that they stay in the cache."""
    return max(1, (FLOATS_IN_CACHE if device.type == "cpu" else FLOATS_TOGETHER) // vocab_size)


class _LinearCrossEntropy(torch.autograd.Function):
    """By hand, in float32 on CPUs: the gradient takes the place of the logits, which halves the time."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, size: int, with_gradients: bool) -> Tensor:
        total, of_features = features.new_zeros(()), torch.empty_like(features)
        # Transposed, since so its products take two thirds of the time.
        of_weight = weight.new_zeros(weight.t().shape)
        parts = (values.split(size) for values in (features, targets, of_features))
        for rows, words, of_rows in zip(*parts):
            logits, places = product(rows, weight), words[:, None]
            largest, true = logits.amax(dim=1), logits.gather(1, places)
            gradient = torch.softmax(logits, dim=1, out=logits)
            # The largest probability is one over the sum of all exponentials, scaled.
            total += (largest - gradient.amax(dim=1).log()).sum() - true.sum()
            if with_gradients:
                gradient.scatter_add_(1, places, gradient.new_full(places.shape, -1))
                of_rows.copy_(product(gradient, weight.t()))
                of_weight += product(rows.t(), gradient.t())
        ctx.save_for_backward(of_features, of_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sum: Tensor) -> tuple[Tensor | None, ...]:
        of_features, of_weight = ctx.saved_tensors
        return of_sum * of_features, of_sum * of_weight.t(), None, None, None
