"""Frames around windows, drawn as the glimpse-based models of the benchmark show them."""

import torch
from jaxtyping import Float
from torch import Tensor

from clevrtex.models.glimpses import pasting


def paste_frames(
    where: Float[Tensor, "B N 4"],
    brightness: Float[Tensor, "B N C"],
    size: tuple[int, int],
    side: int,
    width: int,
    epsilon: float,
) -> Float[Tensor, "B C H W"]:
    """The sum of frames at the windows, each channel as bright as told, in a picture of `size`.

    A frame is a patch of `side` x `side` ones with zeros further than `width` from its edges: a square less a smaller
    one. Both are a row times a column, and stay so when they are pasted, so that none is drawn alone.
    """
    squares = torch.ones(side, 2, device=where.device)
    squares[:width, 1] = squares[side - width :, 1] = 0
    with torch.autocast(where.device.type, enabled=False):
        rows, columns = (matrix @ squares for matrix in pasting(where, (side, side), size, epsilon))
        rows = torch.einsum("bnhs,bnc->bchns", rows * rows.new_tensor((1.0, -1.0)), brightness.float())
        return rows.flatten(3) @ columns.transpose(2, 3).flatten(1, 2)[:, None]
