"""What DTI-Sprites has learnt, as pictures."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.viz.panels import image_grid

GREY = 0.5


def sprites_picture(colours: Float[Tensor, "K 3 h w"], masks: Float[Tensor, "K 1 h w"]) -> UInt8[Tensor, "3 _ _"]:
    """A column for every sprite: its colours, its mask, and the one cut out by the other, on grey."""
    colours, masks = colours.detach().cpu().clamp(0, 1), masks.detach().cpu().clamp(0, 1)
    cut = masks * colours + (1 - masks) * GREY
    return _bytes(torch.cat((colours, masks.expand_as(colours), cut)), len(colours))


def backgrounds_picture(backgrounds: Float[Tensor, "M 3 H W"]) -> UInt8[Tensor, "3 _ _"]:
    return _bytes(backgrounds.detach().cpu().clamp(0, 1), len(backgrounds))


def _bytes(tiles: Float[Tensor, "N 3 h w"], columns: int) -> UInt8[Tensor, "3 _ _"]:
    return image_grid((255 * tiles).round().byte(), columns, padding=1, pad_value=255 * GREY)
