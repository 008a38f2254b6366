"""Group norm, SiLU and a convolution as one step of autograd that keeps only what goes in.

The normalised maps are made again on the way back, which costs a few percent of the convolution: a third of the memory,
with equal numbers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from slotdiffusion.models.group_norm import group_norm_gradients, group_norm_with_statistics


def norm_silu(features: Float[Tensor, "N C H W"], norm: nn.GroupNorm) -> Float[Tensor, "N C H W"]:
    """silu(norm(features)) in the precision of the norm's weights, autocast or not."""
    return _norm_silu(features, norm.weight, norm.bias, norm.num_groups, norm.eps)


def norm_silu_conv(
    features: Float[Tensor, "N C H W"], norm: nn.GroupNorm, convolution: nn.Conv2d
) -> Float[Tensor, "N C2 H2 W2"]:
    """convolution(silu(norm(features))), in autocast's precision where it is on; the statistics are not."""
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else convolution.weight.dtype
    # Stride, padding, dilation, transposed, output padding, groups: how torch describes a convolution.
    geometry = (convolution.stride, convolution.padding, convolution.dilation, False, (0, 0), convolution.groups)
    return _NormSiLUConv.apply(
        features,
        norm.weight,
        norm.bias,
        convolution.weight,
        convolution.bias,
        (norm.num_groups, norm.eps),
        geometry,
        dtype,
    )


def _norm_silu(features: Tensor, weight: Tensor, bias: Tensor, num_groups: int, epsilon: float) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        normalised = F.group_norm(features.to(weight.dtype), num_groups, weight, bias, epsilon)
        return F.silu(normalised, inplace=not torch.is_grad_enabled())


class _NormSiLUConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm: tuple[int, float],
        geometry: tuple[Any, ...],
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(features, norm_weight, norm_bias, weight)
        ctx.norm, ctx.geometry, ctx.dtype = norm, geometry, dtype
        maps = _norm_silu(features, norm_weight, norm_bias, *norm).to(dtype)
        return torch.ops.aten.convolution(maps, weight.to(dtype), bias.to(dtype), *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, norm_weight, norm_bias, weight = ctx.saved_tensors
        features = features.to(norm_weight.dtype)
        normalised, mean, inverse_deviation = group_norm_with_statistics(features, norm_weight, norm_bias, *ctx.norm)
        of_maps, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient.to(ctx.dtype),
            F.silu(normalised).to(ctx.dtype),
            weight.to(ctx.dtype),
            weight.shape[:1],
            *ctx.geometry,
            (True, *ctx.needs_input_grad[3:5]),
        )
        gradient = of_maps.to(normalised.dtype)
        torch.ops.aten.silu_backward.grad_input(gradient, normalised, grad_input=gradient)
        del of_maps, normalised
        of_norm = group_norm_gradients(gradient, features, mean, inverse_deviation, norm_weight)
        of_convolution = (None if value is None else value.to(weight.dtype) for value in (of_weight, of_bias))
        return *of_norm, *of_convolution, None, None, None
