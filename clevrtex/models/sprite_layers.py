"""How MarioNette lays patches on a canvas (Smirnov et al. 2021): shifted, interleaved, composited.

Shapes: B images, L layers of G x G cells of p pixels, N = B L G G patches of side P = 2p around the cells, canvas of
side S = G p. Patches of every second row and column tile the canvas, so that four rasters make a layer; M = 4 L rasters
in all. Patches and rasters are RGBA.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

PARITIES = ((0, 0), (1, 1), (1, 0), (0, 1))
"""Of row and column of the cells in the four rasters."""


def translate(patches: Float[Tensor, "N 4 P P"], shifts: Float[Tensor, "N 2"]) -> Float[Tensor, "N 4 P P"]:
    """Patches moved by (x, y) half patches to the right and down, bilinearly.

    Colours go on beyond the border, alpha ends there.
    """
    identity = torch.eye(2, device=patches.device).expand(len(patches), 2, 2)
    grid = F.affine_grid(torch.cat((identity, -shifts[:, :, None]), dim=2), list(patches.shape), align_corners=False)
    colour = F.grid_sample(patches[:, :3], grid, padding_mode="border", align_corners=False)
    return torch.cat((colour, F.grid_sample(patches[:, 3:], grid, align_corners=False)), dim=1)


def slide(patches: Float[Tensor, "N 4 P P"], weights: Float[Tensor, "N 2 T"]) -> Float[Tensor, "N 4 P P"]:
    """Patches moved by T whole-pixel shifts per axis (x, y) at once, with the weights given; zero beyond the border."""
    along_x, along_y = weights.unbind(dim=1)
    windows = F.pad(patches, (weights.shape[2] // 2,) * 4).unfold(3, patches.shape[3], 1)
    moved = torch.einsum("ncytx,nt->ncyx", windows, along_x)
    return torch.einsum("nctxy,nt->ncyx", moved.unfold(2, patches.shape[2], 1), along_y)


def interleave(patches: Float[Tensor, "B L G G 4 P P"]) -> Float[Tensor, "B L 4 4 S S"]:
    """The four rasters of every layer, zero where they have no patch."""
    size = patches.shape[-1]
    side = patches.shape[2] * size // 2
    rasters = []
    for row, column in PARITIES:
        tiles = patches[:, :, row::2, column::2].permute(0, 1, 4, 2, 5, 3, 6)
        raster = tiles.reshape(*tiles.shape[:3], side, side)
        rasters.append(F.pad(raster, (*_offset(column, size), *_offset(row, size))))
    return torch.stack(rasters, dim=2)


def _offset(parity: int, size: int) -> tuple[int, int]:
    """What to put before and behind an axis of a raster, whose patches begin half a cell before their cells."""
    before = size // 4 if parity else -(size // 4)
    return before, -before


def per_raster(cells: Float[Tensor, "B L G G"]) -> Float[Tensor, "B L 4 T"]:
    """Values of cells in the order of the rasters and of the patches in each."""
    return torch.stack([cells[:, :, row::2, column::2].flatten(2) for row, column in PARITIES], dim=2)


def patch_places(grid_size: int, size: int) -> Bool[Tensor, "4 T S S"]:
    """The pixels of every raster that belong to each of its T = (G / 2)^2 patches."""
    number = torch.arange((grid_size // 2) ** 2)
    of_pixel = number.view(grid_size // 2, -1).repeat_interleave(size, dim=0).repeat_interleave(size, dim=1)
    rasters = [F.pad(of_pixel, (*_offset(column, size), *_offset(row, size)), value=-1) for row, column in PARITIES]
    return torch.stack(rasters)[:, None] == number[:, None, None]


def from_back_to_front(
    rasters: Shaped[Tensor, "B L 4 *size"], order: Int64[Tensor, "B 4"]
) -> Shaped[Tensor, "B M *size"]:
    """Layer by layer, and within each in the image's own order."""
    images = torch.arange(len(order), device=order.device)[:, None]
    return rasters.transpose(1, 2)[images, order].transpose(1, 2).flatten(1, 2)


def composite(rasters: Float[Tensor, "B M 4 S S"], background: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    """Every raster over those before it."""
    canvas = background
    for raster in rasters.unbind(dim=1):
        canvas = torch.lerp(canvas, raster[:, :3], raster[:, 3:])
    return canvas


def visible(alpha: Float[Tensor, "B M S S"]) -> tuple[Float[Tensor, "B M S S"], Float[Tensor, "B S S"]]:
    """What shows of every raster behind those after it, and what shows of the background."""
    left = (1 - alpha).flip(1).cumprod(dim=1).flip(1)
    return alpha * torch.cat((left[:, 1:], torch.ones_like(left[:, :1])), dim=1), left[:, 0]
