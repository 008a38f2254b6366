"""Attention with one head between all places of a picture.

In float32 on CPUs it is one step of autograd with a backward pass by hand, with equal numbers but for rounding, in half
of the time: the products are oneDNN's (core/nn/products.py), and attention weights are made again on the way back.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.nn.products import is_plain, product


def spatial_attention(
    queries: Float[Tensor, "N L C"], keys: Float[Tensor, "N L C"], values: Float[Tensor, "N L C"]
) -> Float[Tensor, "N L C"]:
    """softmax(queries keys^T / sqrt(C)) values, for every picture."""
    if is_plain(queries):
        return _SpatialAttention.apply(queries, keys, values)
    # The axis of heads leads to kernels that do not write the weights to memory.
    return F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None]).squeeze(1)


def _weights(queries: Float[Tensor, "L C"], keys: Float[Tensor, "L C"]) -> Float[Tensor, "L L"]:
    scores = product(queries, keys).mul_(queries.shape[-1] ** -0.5)
    return torch.softmax(scores, dim=-1, out=scores)


class _SpatialAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *projected: Tensor) -> Tensor:
        found = [product(_weights(queries, keys), values.t()) for queries, keys, values in zip(*projected)]
        ctx.save_for_backward(*projected, result := torch.stack(found))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradients = [_gradients(*picture) for picture in zip(*ctx.saved_tensors, gradient)]
        return tuple(torch.stack(pictures) for pictures in zip(*gradients))


def _gradients(
    queries: Float[Tensor, "L C"],
    keys: Float[Tensor, "L C"],
    values: Float[Tensor, "L C"],
    found: Float[Tensor, "L C"],
    of_found: Float[Tensor, "L C"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Of queries, keys and values of one picture, given that of what they `found`."""
    weights = _weights(queries, keys)
    of_values = product(weights.t(), of_found.t())
    # The softmax takes from each weight's gradient what all have in common: the weights' own mean of it.
    common = (of_found * found).sum(dim=-1, keepdim=True)
    of_scores = product(of_found, values).sub_(common).mul_(weights).mul_(queries.shape[-1] ** -0.5)
    return product(of_scores, keys.t()), product(of_scores.t(), queries.t()), of_values
