"""Frames around windows, drawn as the glimpse-based models of the benchmark show them."""

import torch
from jaxtyping import Float
from torch import Tensor

from clevrtex.models.glimpses import paste


def frame(side: int, width: int) -> Float[Tensor, "side side"]:
    """A square of ones `width` pixels wide around zeros."""
    square = torch.ones(side, side)
    square[width : side - width, width : side - width] = 0
    return square


def paste_frames(
    where: Float[Tensor, "B N 4"],
    brightness: Float[Tensor, "B N C"],
    size: tuple[int, int],
    side: int,
    width: int,
    epsilon: float,
) -> Float[Tensor, "B C H W"]:
    """The sum of frames at the windows, each channel as bright as told, in a picture of `size`."""
    patch = frame(side, width).to(where.device)
    pasted = paste(patch.expand(*where.shape[:2], 1, side, side), where, size, epsilon)
    return torch.einsum("bnhw,bnc->bchw", pasted[:, :, 0], brightness)
