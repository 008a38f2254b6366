"""Causal attention with dropout on its weights, which PyTorch's fused kernels have on GPUs alone."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.nn.dropout import draw, enlargement, keep_mask
from core.nn.products import is_plain, product

ROWS_TOGETHER = 128
"""Queries of a head whose weights lie in the cache together."""


def causal_attention(
    queries: Float[Tensor, "B h L E"], keys: Float[Tensor, "B h L E"], values: Float[Tensor, "B h L E"], dropout: float
) -> Float[Tensor, "B h L E"]:
    """Every position attends to itself and to those before it; `dropout` acts on the weights after the softmax.

    With dropout on the CPU, where PyTorch would compute what the mask hides too, the rows of a head go through few at a
    time and see only the positions up to the last of them.
    """
    if dropout == 0 or queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=True)
    with torch.autocast("cpu", enabled=False):
        flat = (tensor.flatten(0, 1).contiguous() for tensor in (queries, keys, values))
        return _DroppingAttention.apply(*flat, dropout).unflatten(0, queries.shape[:2])


def _pieces(length: int) -> Iterator[tuple[slice, slice]]:
    """Some rows of a head, and the positions that they see."""
    for begin in range(0, length, ROWS_TOGETHER):
        end = min(begin + ROWS_TOGETHER, length)
        yield slice(begin, end), slice(end)


def _transposed_product(left: Float[Tensor, "M K"], right: Float[Tensor, "N K"]) -> Float[Tensor, "M N"]:
    return left @ right.t()


class _DroppingAttention(torch.autograd.Function):
    """By hand, since autograd would fill and add a gradient of all keys and values for every piece."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        times = product if is_plain(queries) else _transposed_product
        queries = queries * queries.shape[-1] ** -0.5
        hidden = torch.full((ROWS_TOGETHER, ROWS_TOGETHER), -torch.inf).triu(1)
        found, stored = torch.empty_like(values), []
        for q, k, v, of_head in zip(queries, keys, values, found):
            for rows, seen in _pieces(len(q)):
                scores = times(q[rows], k[seen]).float()
                count = rows.stop - rows.start
                scores[:, rows] += hidden[:count, :count]
                weights = torch.softmax(scores, dim=-1, out=scores)
                draws = draw(weights.numel())
                kept = keep_mask(draws, dropout).view(weights.shape).mul_(weights).to(values.dtype)
                of_head[rows] = times(kept, v[seen].t())
                stored += [weights, draws]
        found *= enlargement(dropout)
        ctx.save_for_backward(queries, keys, values, found, *stored)
        ctx.dropout, ctx.times = dropout, times
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, found, *stored = ctx.saved_tensors
        dropout, times, weights_and_draws = ctx.dropout, ctx.times, zip(stored[::2], stored[1::2])
        of_queries = torch.empty_like(queries)
        # Transposed, since so their products take two thirds of the time.
        of_keys, of_values = (inputs.new_zeros(inputs.transpose(1, 2).shape) for inputs in (keys, values))
        # The softmax takes from each weight's gradient what all have in common: the weights' own mean of it.
        common = (gradient.float() * found.float()).sum(dim=-1, keepdim=True)
        gradient = gradient * enlargement(dropout)
        heads = zip(queries, keys, values, gradient, common, of_queries, of_keys, of_values)
        for q, k, v, of_found, mean, of_q, of_k, of_v in heads:
            for (rows, seen), (weights, draws) in zip(_pieces(len(q)), weights_and_draws):
                some = of_found[rows]
                keep = keep_mask(draws, dropout).view(weights.shape)
                of_scores = times(some, v[seen]).float().mul_(keep).sub_(mean[rows]).mul_(weights).to(some.dtype)
                kept = keep.mul_(weights).to(some.dtype)
                of_v[:, seen] += times(some.t(), kept.t())
                of_q[rows] = times(of_scores, k[seen].t())
                of_k[:, seen] += times(q[rows].t(), of_scores.t())
        of_keys, of_values = of_keys.transpose(1, 2), of_values.transpose(1, 2)
        return of_queries * queries.shape[-1] ** -0.5, of_keys, of_values, None
