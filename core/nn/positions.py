"""Where a pixel lies: coordinate grids that are projected and added to features."""

import torch
from jaxtyping import Float
from torch import Tensor


def position_grid(height: int, width: int) -> Float[Tensor, "H W 4"]:
    """Distances of every pixel from the four borders, linear from 0 to 1, ends included (Locatello et al. 2020, C.1).

    Channels: from the bottom, from the top (both along rows), from the left, from the right (both along columns).
    """
    rows = torch.linspace(0, 1, height)[:, None].expand(height, width)
    columns = torch.linspace(0, 1, width)[None, :].expand(height, width)
    return torch.stack((1 - rows, rows, columns, 1 - columns), dim=-1)
