"""Where a pixel lies: grids and features of coordinates."""

import math

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


def fourier_features(coordinates: Float[Tensor, "*shape"], num_frequencies: int) -> Float[Tensor, "*shape F"]:
    """x, sin(pi f x) and cos(pi f x) for f = 1 .. `num_frequencies`, of x in [0, 1]; F = 1 + 2 `num_frequencies`."""
    angles = coordinates[..., None] * (math.pi * torch.arange(1, num_frequencies + 1, device=coordinates.device))
    return torch.cat((coordinates[..., None], angles.sin(), angles.cos()), dim=-1)
