"""The two residual branches of a transformer's layer (Vaswani et al. 2017), each with its dropout.

In float32 on CPUs each is one step of autograd with a backward pass by hand, with equal numbers but for rounding. It
takes two thirds of the time for 90 tokens and half of it for a thousand, and two thirds of the memory: the products are
oneDNN's (core/nn/products.py), dropout is cheap (core/nn/dropout.py), and what the backward pass does not read is not
stored. Where there are more attention weights than the caches hold, core/nn/chunked_attention.py takes over.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.nn.chunked_attention import WEIGHTS_TOGETHER, ChunkedAttention
from core.nn.dropout import draw, drop_, drop_gradient, enlargement, keep_mask
from core.nn.products import is_plain, parameter_gradients, product


def attention_branch(
    tokens: Float[Tensor, "B L D"],
    in_weight: Float[Tensor, "D3 D"],
    in_bias: Float[Tensor, " D3"],
    out_weight: Float[Tensor, "D D"],
    out_bias: Float[Tensor, " D"],
    num_heads: int,
    last: int,
    dropout: float,
    is_padding: Bool[Tensor, "B L"] | None = None,
) -> Float[Tensor, "B {last} D"]:
    """What the `last` so many tokens find when they look at all that are no padding, in `num_heads` heads.

    `in_weight` holds those of queries, keys and values. `dropout` acts on the attention weights and on the result.
    """
    batch, length, width = tokens.shape
    if is_plain(tokens):
        given = (tokens, in_weight, in_bias, out_weight, out_bias, num_heads, last, dropout)
        if is_padding is not None or batch * num_heads * last * length > WEIGHTS_TOGETHER:
            return ChunkedAttention.apply(*given, is_padding)
        return _Attention.apply(*given)
    if last == length:
        queries, keys, values = _heads(F.linear(tokens, in_weight, in_bias), 3, num_heads)
    else:
        queries = _heads(F.linear(tokens[:, -last:], in_weight[:width], in_bias[:width]), 1, num_heads)[0]
        keys, values = _heads(F.linear(tokens, in_weight[width:], in_bias[width:]), 2, num_heads)
    seen = None if is_padding is None else ~is_padding[:, None, None]
    size = width // num_heads
    if size % 8:  # the fused kernels of GPUs want features by eights
        queries, keys, values = (F.pad(heads, (0, -size % 8)) for heads in (queries, keys, values))
    found = F.scaled_dot_product_attention(queries, keys, values, seen, dropout_p=dropout, scale=size**-0.5)
    found = found[..., :size]
    return F.dropout(F.linear(found.transpose(1, 2).flatten(2), out_weight, out_bias), dropout)


def feed_forward_branch(
    tokens: Float[Tensor, "B L D"],
    in_weight: Float[Tensor, "H D"],
    in_bias: Float[Tensor, " H"],
    out_weight: Float[Tensor, "D H"],
    out_bias: Float[Tensor, " D"],
    dropout: float,
) -> Float[Tensor, "B L D"]:
    """Two linear layers with ReLU between them; `dropout` acts after the ReLU and on the result."""
    if is_plain(tokens):
        return _FeedForward.apply(tokens, in_weight, in_bias, out_weight, out_bias, dropout)
    hidden = F.dropout(F.linear(tokens, in_weight, in_bias).relu_(), dropout)
    return F.dropout(F.linear(hidden, out_weight, out_bias), dropout)


def _heads(projected: Float[Tensor, "B L _"], parts: int, num_heads: int) -> Float[Tensor, "{parts} B h L E"]:
    return projected.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4)


def _joined(heads: Float[Tensor, "Bh L E"], num_heads: int) -> Float[Tensor, "BL D"]:
    return heads.unflatten(0, (-1, num_heads)).transpose(1, 2).flatten(2).flatten(0, 1)


class _Attention(torch.autograd.Function):
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
    ) -> Tensor:
        batch, length, width = tokens.shape
        ctx.num_heads, ctx.last, ctx.factor = num_heads, last, (width // num_heads) ** -0.5
        ctx.dropout, ctx.scale = dropout, enlargement(dropout)
        rows = tokens.flatten(0, 1)
        if last == length:
            projected = product(rows, in_weight, in_bias).view(batch, length, -1)
            queries, keys, values = (part.flatten(0, 1) for part in _heads(projected, 3, num_heads))
        else:
            newest = tokens[:, -last:].flatten(0, 1)
            projected = product(newest, in_weight[:width], in_bias[:width]).view(batch, last, -1)
            queries = _heads(projected, 1, num_heads)[0].flatten(0, 1)
            projected = product(rows, in_weight[width:], in_bias[width:]).view(batch, length, -1)
            keys, values = (part.flatten(0, 1) for part in _heads(projected, 2, num_heads))
        weights = torch.bmm(queries, keys.transpose(1, 2)).mul_(ctx.factor).softmax(dim=-1)
        thinned = weights
        if dropout:
            thinned = keep_mask(draw(weights.numel()), dropout).view(weights.shape).mul_(weights)
        found = _joined(torch.bmm(thinned, values).mul_(ctx.scale), num_heads)
        result = product(found, out_weight, out_bias)
        draws = drop_(result, dropout)
        parameters = (in_weight, out_weight)
        ctx.save_for_backward(tokens, queries, keys, values, weights, thinned, found, draws, *parameters)
        return result.view(batch, last, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tokens, queries, keys, values, weights, thinned, found, draws, in_weight, out_weight = ctx.saved_tensors
        (batch, length, width), last, num_heads = tokens.shape, ctx.last, ctx.num_heads
        gradient = drop_gradient(gradient.flatten(0, 1), draws, ctx.dropout)
        of_out = parameter_gradients(found, gradient)
        of_found = product(gradient, out_weight.t())
        # The softmax takes from each weight's gradient what all have in common: the weights' own mean of it.
        common = (of_found * found).view(batch, last, num_heads, -1).sum(dim=-1).transpose(1, 2).reshape(-1, last, 1)
        of_heads = _heads(of_found.mul_(ctx.scale).view(batch, last, width), 1, num_heads)[0].flatten(0, 1)
        of_scores = torch.bmm(of_heads, values.transpose(1, 2)).mul_(thinned).addcmul_(weights, common, value=-1)
        of_queries = _joined(torch.bmm(of_scores, keys).mul_(ctx.factor), num_heads)
        of_keys = _joined(torch.bmm(of_scores.transpose(1, 2), queries).mul_(ctx.factor), num_heads)
        of_values = _joined(torch.bmm(thinned.transpose(1, 2), of_heads), num_heads)
        rows = tokens.flatten(0, 1)
        if last == length:
            projected = torch.cat([of_queries, of_keys, of_values], dim=1)
            of_in = parameter_gradients(rows, projected)
            of_tokens = product(projected, in_weight.t()).view(tokens.shape)
            return of_tokens, *of_in, *of_out, None, None, None
        projected = torch.cat([of_keys, of_values], dim=1)
        of_tokens = product(projected, in_weight[width:].t()).view(tokens.shape)
        of_tokens[:, -last:] += product(of_queries, in_weight[:width].t()).view(batch, last, width)
        of_in = zip(
            parameter_gradients(tokens[:, -last:].flatten(0, 1), of_queries), parameter_gradients(rows, projected)
        )
        return of_tokens, *map(torch.cat, of_in), *of_out, None, None, None


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        in_weight: Tensor,
        in_bias: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        dropout: float,
    ) -> Tensor:
        rows = tokens.flatten(0, 1)
        hidden = product(rows, in_weight, in_bias).relu_()
        drop_(hidden, dropout)
        result = product(hidden, out_weight, out_bias)
        draws = drop_(result, dropout)
        ctx.dropout = dropout
        ctx.save_for_backward(rows, hidden, draws, in_weight, out_weight)
        return result.view(tokens.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, draws, in_weight, out_weight = ctx.saved_tensors
        shape, dropout = gradient.shape, ctx.dropout
        gradient = drop_gradient(gradient.flatten(0, 1), draws, dropout)
        of_out = parameter_gradients(hidden, gradient)
        # What was dropped or below zero is zero, the rest above.
        of_hidden = product(gradient, out_weight.t())
        of_hidden = torch.ops.aten.threshold_backward(of_hidden, hidden, 0)
        if dropout:
            of_hidden.mul_(enlargement(dropout))
        of_in = parameter_gradients(rows, of_hidden)
        return product(of_hidden, in_weight.t()).view(shape), *of_in, *of_out, None
