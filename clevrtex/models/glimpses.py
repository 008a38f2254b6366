"""Glimpses: windows read out of an image, and patches pasted into one (spatial transformer, Jaderberg et al. 2015).

One convention for all models: a window `where` is [sx, sy, x, y], or [s, x, y] where both sides have the scale s. The
image spans [-1, 1] in both directions, x to the right and y down, from edge to edge (align_corners=False); the window
has its centre at (x, y) and is sx and sy times as wide and high as the image. Between pixels the interpolation is
bilinear; outside of the picture that is read everything is zero.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def read_glimpses(
    image: Float[Tensor, "B C H W"], where: Float[Tensor, "B N D"], size: tuple[int, int]
) -> Float[Tensor, "B N C h w"]:
    """What N windows show of each image, resampled to `size` (h, w)."""
    (batch, count), (height, width) = where.shape[:2], size
    x, y = _centres(where, size)
    shape = (batch, count, height, width)
    points = torch.stack((x[:, :, None].expand(shape), y[:, :, :, None].expand(shape)), dim=-1)
    # All windows of an image are one tall grid, so that no image is repeated.
    glimpses = F.grid_sample(image, points.flatten(1, 2), align_corners=False)
    return glimpses.unflatten(2, (count, height)).transpose(1, 2)


def paste(
    patches: Float[Tensor, "B N C h w"], where: Float[Tensor, "B N D"], size: tuple[int, int], epsilon: float = 0.0
) -> Float[Tensor, "B N C H W"]:
    """Each patch at its window of an empty picture of `size` (H, W); `epsilon` is added to the scales that divide.

    Rows and columns are interpolated one after the other by two matrix products: the numbers of grid_sample, whose
    gradient is not deterministic on a GPU.
    """
    with torch.autocast(patches.device.type, enabled=False):
        rows, columns = pasting(where, (patches.shape[3], patches.shape[4]), size, epsilon)
        # With the channels beside each other no matrix is repeated for them.
        wide = patches.float().transpose(2, 3).flatten(2, 3) @ columns.transpose(-1, -2)
        beside = wide.unflatten(2, (patches.shape[3], patches.shape[2])).flatten(3)
        return (rows @ beside).unflatten(3, (patches.shape[2], size[1])).transpose(2, 3)


def pasting(
    where: Float[Tensor, "B N D"], patch_size: tuple[int, int], size: tuple[int, int], epsilon: float = 0.0
) -> tuple[Float[Tensor, "B N H h"], Float[Tensor, "B N W w"]]:
    """The matrices `rows` and `columns` that paste as rows @ patch @ columns^T; sizes and `epsilon` as in `paste`."""
    x, y = _centres(inverse(where.float(), epsilon), size)
    return _interpolation(y, patch_size[0]), _interpolation(x, patch_size[1])


def inverse(where: Float[Tensor, "*shape D"], epsilon: float = 0.0) -> Float[Tensor, "*shape D"]:
    """Where the image lies as seen from the window: [1 / sx, 1 / sy, -x / sx, -y / sy], scales plus `epsilon`."""
    scale = where[..., :-2] + epsilon
    return torch.cat((1 / scale, -where[..., -2:] / scale), dim=-1)


def edges(where: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape 4"]:
    """Left, top, right and bottom edge of the windows, as fractions of the image, outside of which they may lie."""
    scale, centre = _scale_and_centre(where)
    low = (centre + 1 - scale) / 2
    return torch.cat((low, low + scale), dim=-1)


def boxes(where: Float[Tensor, "*shape D"], size: tuple[int, int]) -> Float[Tensor, "*shape 4"]:
    """Left, top, right and bottom edge of the windows in pixels of an image of `size` (h, w), clipped to it."""
    extent = where.new_tensor(size[::-1]).repeat(2)
    return torch.minimum((edges(where) * extent).clamp(min=0), extent)


def _scale_and_centre(where: Float[Tensor, "*shape D"]) -> tuple[Float[Tensor, "*shape 2"], Float[Tensor, "*shape 2"]]:
    return where[..., :-2].expand(*where.shape[:-1], 2), where[..., -2:]


def _centres(
    where: Float[Tensor, "B N D"], size: tuple[int, int]
) -> tuple[Float[Tensor, "B N w"], Float[Tensor, "B N h"]]:
    """Coordinates in the image of the columns' and the rows' centres of a window of `size` (h, w) pixels."""
    scale, centre = _scale_and_centre(where)
    x, y = (
        torch.linspace(-1, 1, length, device=where.device) * ((length - 1) / length) for length in (size[1], size[0])
    )
    return scale[..., 0, None] * x + centre[..., 0, None], scale[..., 1, None] * y + centre[..., 1, None]


def _interpolation(points: Float[Tensor, "B N P"], length: int) -> Float[Tensor, "B N P L"]:
    """Weights of `length` pixels in the linear interpolation at `points`; on a pixel the gradient is the one above."""
    places = ((points + 1) * length - 1) / 2
    distance = places[..., None] - torch.arange(length, device=points.device)
    return torch.where(distance >= 0, (1 - distance).relu(), (1 + distance).clamp(min=0))
