"""Dropout (Srivastava et al. 2014) whose draws are cheap on CPUs, where they took a seventh of a transformer's step."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

LEVELS = 2**16


def draw(count: int) -> UInt8[Tensor, "{count}+1"]:
    """Random bytes for the masks of `count` elements: one for each, and one more."""
    words = torch.empty(count // 8 + 1, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.uint8)[: count + 1]


def keep_mask(draws: UInt8[Tensor, "N"], probability: float) -> Float[Tensor, "N-1"]:
    """0 with `probability`, below 1, which is rounded to 1/65536; else 1.

    The number that decides is an element's byte and, as its fraction, the byte of the next one.
    """
    numbers = draws.float()
    return numbers[:-1].add(numbers[1:], alpha=1 / 256).ge_(_dropped(probability) / 256)


def enlargement(probability: float) -> float:
    """What to multiply by what is kept, for the mean to stay the same."""
    return LEVELS / (LEVELS - _dropped(probability))


def _dropped(probability: float) -> int:
    return round(probability * LEVELS)


def drop_(values: Float[Tensor, "*shape"], probability: float) -> UInt8[Tensor, "_"] | None:
    """Zero elements in place and enlarge the others; the draws that decided, which are None if all are kept."""
    if not probability:
        return None
    draws = draw(values.numel())
    values.mul_(keep_mask(draws, probability).view(values.shape)).mul_(enlargement(probability))
    return draws


def drop_gradient(
    gradient: Float[Tensor, "*shape"], draws: UInt8[Tensor, "_"] | None, probability: float
) -> Float[Tensor, "*shape"]:
    """That of what was dropped in, given that of what came out."""
    if draws is None:
        return gradient
    return keep_mask(draws, probability).view(gradient.shape).mul_(gradient).mul_(enlargement(probability))


def dropout(values: Float[Tensor, "*shape"], probability: float) -> Float[Tensor, "*shape"]:
    """`values` after dropout, for autograd to follow."""
    if not probability or values.device.type != "cpu":
        return F.dropout(values, probability)
    return _Dropout.apply(values, probability)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, probability: float) -> Tensor:
        dropped, ctx.probability = values.clone(memory_format=torch.contiguous_format), probability
        ctx.save_for_backward(drop_(dropped, probability))
        return dropped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (draws,) = ctx.saved_tensors
        return drop_gradient(gradient.contiguous(), draws, ctx.probability), None
