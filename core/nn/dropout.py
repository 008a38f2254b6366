"""Dropout (Srivastava et al. 2014) whose draws are cheap on CPUs, where they took a seventh of a transformer's step."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LEVELS = 2**16


def keep_mask(like: Float[Tensor, "*shape"], probability: float) -> tuple[Bool[Tensor, "*shape"], float]:
    """False with `probability`, below 1, and what to multiply by what is kept, for the mean to stay the same.

    16 bits are drawn for each element, by which the probability is rounded to 1/65536.
    """
    dropped = round(probability * LEVELS)
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = words.view(torch.int16)[: like.numel()] >= dropped - LEVELS // 2
    return keep.view(like.shape), LEVELS / (LEVELS - dropped)


def drop_(values: Float[Tensor, "*shape"], probability: float) -> tuple[Bool[Tensor, "*shape"] | None, float]:
    """Zero elements in place and enlarge the others; which were kept (None: all), and the factor."""
    if not probability:
        return None, 1.0
    keep, scale = keep_mask(values, probability)
    values.mul_(keep).mul_(scale)
    return keep, scale


def drop_gradient(
    gradient: Float[Tensor, "*shape"], keep: Bool[Tensor, "*shape"] | None, scale: float
) -> Float[Tensor, "*shape"]:
    """That of what was dropped in, given that of what came out."""
    return gradient if keep is None else (gradient * keep).mul_(scale)
