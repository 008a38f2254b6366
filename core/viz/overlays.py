"""Segmentations and boxes drawn over pictures, and sheets of many pictures."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor

from core.viz.colours import slot_colours

STRENGTH = 0.55
GAP = 2


def overlay(
    picture: UInt8[np.ndarray, "H W 3"], labels: Integer[np.ndarray, "H W"], num_objects: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with every object (label above 0) tinted in a colour of its own, the background as it is.

    Frames of one video keep the colours of their objects if `num_objects` is the same for all.
    """
    num_objects = max(num_objects or int(labels.max()), 1)
    palette = torch.cat([torch.zeros(1, 3), slot_colours(num_objects)]).numpy() * 255
    strength = STRENGTH * (labels > 0)[..., None]
    return np.rint((1 - strength) * picture + strength * palette[labels]).astype(np.uint8)


def draw_boxes(
    pictures: Float[Tensor, "B 3 H W"],
    boxes: Float[Tensor, "B K 4"],
    present: Bool[Tensor, "B K"],
    colour: tuple[float, float, float] = (0.0, 1.0, 0.0),
) -> Float[Tensor, "B 3 H W"]:
    """Frames of one pixel around the present boxes, in a copy of the pictures.

    Boxes are (left, top, right, bottom) in pixels from the left upper corner, rounded; what lies outside is cut off.
    """
    left, top, right, bottom = boxes.round()[..., None, None].unbind(dim=2)
    y, x = (torch.arange(size, device=boxes.device) for size in pictures.shape[-2:])
    y = y[:, None]

    def within(margin: int) -> Bool[Tensor, "B K H W"]:
        return (x >= left + margin) & (x < right - margin) & (y >= top + margin) & (y < bottom - margin)

    framed = (within(0) & ~within(1) & present[..., None, None]).any(dim=1, keepdim=True)
    return torch.where(framed, pictures.new_tensor(colour).view(3, 1, 1), pictures)


def contact_sheet(
    pictures: list[UInt8[np.ndarray, "H W 3"]], columns: int, gap: int = GAP
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Pictures of one size in rows of `columns`, on white. Raises ValueError without pictures."""
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture, found none")
    height, width, _ = pictures[0].shape
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet
