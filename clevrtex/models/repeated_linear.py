"""Linear layers that are applied several times in one graph, with one gradient of their weights for all uses.

Where a batch has few rows, that gradient costs more in memory traffic than in arithmetic, and adding up those of the
uses as much again.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Uses = list[tuple[Tensor, Tensor]]
"""Inputs and gradients of the outputs, noted on the way back."""


def to_repeat(layers: nn.Sequential) -> Callable[[Float[Tensor, "B D_in"]], Float[Tensor, "B D_out"]]:
    """`layers`, to be made once for all their uses in one graph. Gradients are those of plain layers."""
    if torch.compiler.is_compiling():  # it cannot follow what is noted on the way back
        return layers
    parts = [_repeated(layer) if isinstance(layer, nn.Linear) else layer for layer in layers]

    def apply(values: Float[Tensor, "B D_in"]) -> Float[Tensor, "B D_out"]:
        for part in parts:
            values = part(values)
        return values

    return apply


def _repeated(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    uses: Uses = []
    weight, bias = _GradientOfUses.apply(layer.weight, layer.bias, uses)
    return lambda inputs: _Use.apply(inputs, weight, bias, uses)


class _Use(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, weight, bias, uses):
        ctx.save_for_backward(inputs, weight)
        ctx.uses = uses
        return F.linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        inputs, weight = ctx.saved_tensors
        ctx.uses.append((inputs.to(gradient.dtype), gradient))
        return (gradient @ weight.to(gradient.dtype)).to(inputs.dtype), None, None, None


class _GradientOfUses(torch.autograd.Function):
    """The identity on weight and bias. Its way back comes after that of all uses."""

    @staticmethod
    def forward(ctx, weight, bias, uses):
        ctx.set_materialize_grads(False)
        ctx.uses, ctx.dtype = uses, weight.dtype
        return weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, *_):
        inputs, gradients = (torch.cat(values) for values in zip(*ctx.uses))
        ctx.uses.clear()
        return (gradients.t() @ inputs).to(ctx.dtype), gradients.sum(dim=0, dtype=ctx.dtype), None
