"""Group norm (Wu and He 2018) with a backward pass by hand.

PyTorch's own takes several times as long on CPUs where channels come last; numbers are equal but for rounding.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core.nn.products import is_plain

ROW_LENGTH = 4096


def group_norm_with_statistics(
    features: Float[Tensor, "N C H W"], weight: Tensor, bias: Tensor, num_groups: int, epsilon: float
) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, "N G"], Float[Tensor, "N G"]]:
    """The normalised maps, and the mean and the inverse of the deviation of every group."""
    batch, channels, height, width = features.shape
    sizes = (batch, channels, height * width, num_groups)
    return torch.native_group_norm(features, weight, bias, *sizes, epsilon)


def group_norm_gradients(
    gradient: Float[Tensor, "N C H W"],
    features: Float[Tensor, "N C H W"],
    mean: Float[Tensor, "N G"],
    inverse_deviation: Float[Tensor, "N G"],
    weight: Float[Tensor, " C"],
) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Of features, weight and bias; where channels come last nothing is copied."""
    groups, count = mean.shape[1], features[0].numel() // mean.shape[1]
    shape = gradient.permute(0, 2, 3, 1).shape
    rows, of_rows = (maps.permute(0, 2, 3, 1).flatten(1, 2) for maps in (features, gradient))
    sums, products = of_rows.sum(dim=1), (of_rows * rows).sum(dim=1)
    sum_of_group, product_of_group = (
        (values * weight).unflatten(1, (groups, -1)).sum(dim=2) for values in (sums, products)
    )
    slope = (sum_of_group * mean - product_of_group) * inverse_deviation**3 / count
    offset = -slope * mean - sum_of_group * inverse_deviation / count
    slope, offset, mean, inverse_deviation = (
        values.repeat_interleave(len(weight) // groups, dim=1) for values in (slope, offset, mean, inverse_deviation)
    )
    of_weight = ((products - sums * mean) * inverse_deviation).sum(dim=0)
    # Long rows are quicker where a vector is added to all of them.
    together = math.gcd(rows.shape[1], max(1, ROW_LENGTH // len(weight)))
    slope, offset, factor = (
        values.repeat(1, together)[:, None] for values in (slope, offset, weight * inverse_deviation)
    )
    rows, of_rows = (values.unflatten(1, (-1, together)).flatten(2) for values in (rows, of_rows))
    of_features = torch.addcmul(offset, rows, slope).addcmul_(of_rows, factor)
    return of_features.view(shape).permute(0, 3, 1, 2), of_weight, sums.sum(dim=0)


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm with that backward pass where it is float32 on a CPU."""

    def forward(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        if not is_plain(features):
            return super().forward(features)
        return _GroupNorm.apply(features, self.weight, self.bias, self.num_groups, self.eps)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, num_groups: int, epsilon: float) -> Tensor:
        found, mean, inverse_deviation = group_norm_with_statistics(features, weight, bias, num_groups, epsilon)
        ctx.save_for_backward(features, mean, inverse_deviation, weight)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *group_norm_gradients(gradient, *ctx.saved_tensors), None, None
