"""Linear layers, and convolutions of small maps, as matrix products that oneDNN takes on CPUs.

A convolution of a 4x4 map reads more weights than features, and oneDNN first brings them into an order of its own: as a
product of matrices it takes a third of the time, forward and backward, with equal numbers but for rounding.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core.nn.products import is_plain, product

WEIGHTS_PER_OUTPUT = 24
"""A convolution with at least so many weights per channel for each pixel that comes out is a product."""


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Float[Tensor, "R F"], weight: Float[Tensor, "G F"], bias: Float[Tensor, " G"] | None
    ) -> Float[Tensor, "R G"]:
        ctx.save_for_backward(inputs, weight)
        ctx.has_bias = bias is not None
        return product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "R G"]) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = product(gradient.t(), inputs.t()) if ctx.needs_input_grad[1] else None
        return of_inputs, of_weight, gradient.sum(dim=0) if ctx.has_bias else None


def linear(
    inputs: Float[Tensor, "*batch F"], weight: Float[Tensor, "G F"], bias: Float[Tensor, " G"] | None = None
) -> Float[Tensor, "*batch G"]:
    """`inputs @ weight.T + bias`."""
    if not is_plain(inputs):
        return F.linear(inputs, weight, bias)
    return _Product.apply(inputs.reshape(-1, inputs.shape[-1]), weight, bias).view(*inputs.shape[:-1], -1)


class Linear(nn.Linear):
    """nn.Linear by way of `linear`."""

    def forward(self, inputs: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch G"]:
        return linear(inputs, self.weight, self.bias)


class _Windows(torch.autograd.Function):
    """What each output of a convolution sees: all channels of the first pixel, of the second, ..."""

    @staticmethod
    def forward(
        ctx: Any, features: Float[Tensor, "B H W C"], size: int, stride: int, padding: int
    ) -> Float[Tensor, "B H2 W2 F"]:
        padded = F.pad(features, (0, 0) + 4 * (padding,))
        ctx.shape, ctx.window = padded.shape, (size, stride, padding)
        return padded.unfold(1, size, stride).unfold(2, size, stride).movedim(3, -1).flatten(3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "B H2 W2 F"]) -> tuple[Tensor | None, ...]:
        size, stride, padding = ctx.window
        of_padded = gradient.new_zeros(ctx.shape)
        of_pixels = gradient.unflatten(3, (size, size, -1))
        rows, columns = (stride * count for count in gradient.shape[1:3])
        for down, right in itertools.product(range(size), repeat=2):
            pixels = of_padded[:, down : down + rows : stride, right : right + columns : stride]
            pixels += of_pixels[:, :, :, down, right]
        inner = slice(padding, -padding or None)
        return of_padded[:, inner, inner], None, None, None


class Conv2d(nn.Conv2d):
    """nn.Conv2d that is a matrix product if its kernel is one pixel, or its maps are small."""

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        (size, _), (stride, _), (padding, _) = self.kernel_size, self.stride, self.padding
        batch, _, height, width = features.shape
        outputs = batch * ((height + 2 * padding - size) // stride + 1) * ((width + 2 * padding - size) // stride + 1)
        is_small = size == 1 or outputs * WEIGHTS_PER_OUTPUT <= self.weight[0].numel()
        if not (is_small and is_plain(features)):
            return super().forward(features)
        seen = features.permute(0, 2, 3, 1)
        if size > 1:
            seen = _Windows.apply(seen, size, stride, padding)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return linear(seen, weight, self.bias).permute(0, 3, 1, 2)
