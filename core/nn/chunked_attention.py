"""Attention with more weights than a CPU's caches hold: few samples at a time, and their weights made twice.

Weights on their way to the memory and back cost more than to make them again for the backward pass, and are most of
what a transformer's training keeps. The branch takes two thirds of the time for 20 samples of 200 tokens, and the whole
training two thirds of the memory.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.nn.dropout import draw, drop_, drop_gradient, enlargement, keep_mask
from core.nn.products import parameter_gradients, product

WEIGHTS_TOGETHER = 2**19
"""Attention weights that are at work at a time."""


def _by_heads(features: Float[Tensor, "_ B L"], parts: int, num_heads: int) -> Float[Tensor, "{parts} B h E L"]:
    return features.unflatten(0, (parts, num_heads, -1)).permute(0, 3, 1, 2, 4)


def _chunks(batch: int, weights_each: int) -> Iterator[slice]:
    """Samples whose attention weights are at work together."""
    size = max(1, WEIGHTS_TOGETHER // weights_each)
    for begin in range(0, batch, size):
        yield slice(begin, min(begin + size, batch))


def _weights(
    queries: Float[Tensor, "n h E M"], keys: Float[Tensor, "n h E L"], mask: Float[Tensor, "n 1 1 L"] | None
) -> Float[Tensor, "nh M L"]:
    """The softmax of products of queries and keys; `mask` is added before it."""
    scores = torch.bmm(queries.flatten(0, 1).transpose(1, 2), keys.flatten(0, 1))
    if mask is not None:
        scores.unflatten(0, queries.shape[:2]).add_(mask)
    return torch.softmax(scores, dim=-1, out=scores)


def _kept(
    draws: UInt8[Tensor, "_"] | None, samples: slice, weights: Float[Tensor, "nh M L"], dropout: float
) -> Float[Tensor, "nh M L"]:
    """The attention weights of some samples after dropout, not yet enlarged."""
    if draws is None:
        return weights
    each = weights.numel() // (samples.stop - samples.start)
    mask = keep_mask(draws[samples.start * each : samples.stop * each + 1], dropout)
    return mask.view(weights.shape).mul_(weights)


class ChunkedAttention(torch.autograd.Function):
    """The first branch of core/nn/transformer_branches.py, whose arguments it has, without autocast, on the CPU.

    Features come first in what it computes: so the rows of all its products lie in one piece.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        in_weight: Tensor,
        in_bias: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        num_heads: int,
        last: int,
        dropout: float,
        is_padding: Tensor | None,
    ) -> Tensor:
        """What the `last` so many tokens find, (B, M, D)."""
        batch, length, width = tokens.shape
        ctx.num_heads, ctx.dropout = num_heads, dropout
        bias = in_bias[:, None]
        asked = product(in_weight[:width], tokens[:, -last:].flatten(0, 1)).add_(bias[:width])
        asked = asked.mul_((width // num_heads) ** -0.5).view(width, batch, last)
        given = product(in_weight[width:], tokens.flatten(0, 1)).add_(bias[width:]).view(2 * width, batch, length)
        (queries,), (keys, values) = _by_heads(asked, 1, num_heads), _by_heads(given, 2, num_heads)
        mask = None
        if is_padding is not None:
            mask = torch.zeros(is_padding.shape).masked_fill_(is_padding, -torch.inf)[:, None, None]
        draws = draw(batch * num_heads * last * length) if dropout else None
        found = torch.empty_like(asked)
        (of_heads,) = _by_heads(found, 1, num_heads)
        for part in _chunks(batch, num_heads * last * length):
            weights = _weights(queries[part], keys[part], None if mask is None else mask[part])
            kept = _kept(draws, part, weights, dropout)
            of_heads[part] = torch.bmm(values[part].flatten(0, 1), kept.transpose(1, 2)).view(of_heads[part].shape)
        if dropout:
            found.mul_(enlargement(dropout))
        result = product(found.flatten(1).t(), out_weight, out_bias)
        result_draws = drop_(result, dropout)
        ctx.save_for_backward(tokens, asked, given, mask, draws, found, result_draws, in_weight, out_weight)
        return result.view(batch, last, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of every argument of `forward`, given that of its result."""
        tokens, asked, given, mask, draws, found, result_draws, in_weight, out_weight = ctx.saved_tensors
        (width, batch, last), length, num_heads, dropout = found.shape, given.shape[2], ctx.num_heads, ctx.dropout
        gradient = drop_gradient(gradient.flatten(0, 1), result_draws, dropout)
        of_out = parameter_gradients(found.flatten(1).t(), gradient)
        of_found = product(out_weight.t(), gradient).view(found.shape)
        # The softmax takes from each weight's gradient what all have in common: the weights' own mean of it.
        common = _by_heads(of_found * found, 1, num_heads)[0].sum(dim=2).unsqueeze(-1)
        if dropout:
            of_found.mul_(enlargement(dropout))
        of_asked, of_given = torch.empty_like(asked), torch.empty_like(given)
        (queries,), (keys, values) = _by_heads(asked, 1, num_heads), _by_heads(given, 2, num_heads)
        (of_queries,), (of_keys, of_values) = _by_heads(of_asked, 1, num_heads), _by_heads(of_given, 2, num_heads)
        (of_heads,) = _by_heads(of_found, 1, num_heads)
        for part in _chunks(batch, num_heads * last * length):
            weights = _weights(queries[part], keys[part], None if mask is None else mask[part])
            kept = _kept(draws, part, weights, dropout)
            some, some_queries, some_keys, some_values = (
                tensor[part].flatten(0, 1) for tensor in (of_heads, queries, keys, values)
            )
            of_values[part] = torch.bmm(some, kept).view(of_values[part].shape)
            of_scores = torch.bmm(some.transpose(1, 2), some_values)
            of_scores.mul_(kept).addcmul_(weights, common[part].flatten(0, 1), value=-1)
            of_keys[part] = torch.bmm(some_queries, of_scores).view(of_keys[part].shape)
            of_queries[part] = torch.bmm(some_keys, of_scores.transpose(1, 2)).view(of_queries[part].shape)
        of_asked, of_given = of_asked.mul_((width // num_heads) ** -0.5).flatten(1), of_given.flatten(1)
        of_tokens = product(of_given.t(), in_weight[width:].t()).view(tokens.shape)
        of_tokens[:, -last:] += product(of_asked.t(), in_weight[:width].t()).view(batch, last, width)
        of_in = zip(
            parameter_gradients(tokens[:, -last:].flatten(0, 1), of_asked.t()),
            parameter_gradients(tokens.flatten(0, 1), of_given.t()),
        )
        return of_tokens, *map(torch.cat, of_in), *of_out, None, None, None, None
