"""Causal attention with dropout on its weights, which PyTorch's fused kernels have on GPUs alone."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ROWS_TOGETHER = 64
"""Queries whose weights lie in the cache together."""


def causal_attention(
    queries: Float[Tensor, "B h L E"], keys: Float[Tensor, "B h L E"], values: Float[Tensor, "B h L E"], dropout: float
) -> Float[Tensor, "B h L E"]:
    """Every position attends to itself and to those before it; `dropout` acts on the weights after the softmax.

    With dropout on the CPU, where PyTorch would compute what the mask hides too, rows go through few at a time and see
    only the positions up to the last of them.
    """
    if dropout == 0 or queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=True)
    with torch.autocast("cpu", enabled=False):
        flat = (tensor.flatten(0, 1) for tensor in (queries, keys, values))
        return _DroppingAttention.apply(*flat, dropout).unflatten(0, queries.shape[:2])


def _pieces(length: int) -> Iterator[tuple[slice, slice]]:
    """Some rows, and the positions that they see."""
    for begin in range(0, length, ROWS_TOGETHER):
        end = min(begin + ROWS_TOGETHER, length)
        yield slice(begin, end), slice(end)


class _DroppingAttention(torch.autograd.Function):
    """By hand, since autograd would fill and add a gradient of all keys and values for every piece."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        queries = queries * queries.shape[-1] ** -0.5
        hidden = torch.full((ROWS_TOGETHER, ROWS_TOGETHER), -torch.inf).triu(1)
        found, stored = torch.empty_like(values), []
        for rows, seen in _pieces(queries.shape[1]):
            scores = torch.bmm(queries[:, rows], keys[:, seen].transpose(1, 2)).float()
            count = rows.stop - rows.start
            scores[:, :, rows] += hidden[:count, :count]
            weights = scores.softmax(dim=-1)
            thinned = torch.rand_like(weights).ge_(dropout).mul_(weights)
            found[:, rows] = torch.bmm(thinned.to(values.dtype), values[:, seen])
            stored += [weights, thinned]
        found /= 1 - dropout
        ctx.save_for_backward(queries, keys, values, found, *stored)
        ctx.dropout = dropout
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, found, *stored = ctx.saved_tensors
        of_queries, of_keys, of_values = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        # The softmax takes from each weight's gradient what all have in common: the weights' own mean of it.
        common = (gradient.float() * found.float()).sum(dim=-1, keepdim=True)
        gradient = gradient / (1 - ctx.dropout)
        for (rows, seen), weights, thinned in zip(_pieces(queries.shape[1]), stored[::2], stored[1::2]):
            some, some_queries = gradient[:, rows], queries[:, rows]
            of_values[:, seen] += torch.bmm(thinned.to(some.dtype).transpose(1, 2), some)
            of_scores = torch.bmm(some, values[:, seen].transpose(1, 2)).float().mul_(thinned)
            of_scores = of_scores.addcmul_(weights, common[:, rows], value=-1).to(some.dtype)
            of_queries[:, rows] = torch.bmm(of_scores, keys[:, seen])
            of_keys[:, seen] += torch.bmm(of_scores.transpose(1, 2), some_queries)
        return of_queries * queries.shape[-1] ** -0.5, of_keys, of_values, None
