"""Colours of slots and of labels."""

from __future__ import annotations

import colorsys

import torch
from jaxtyping import Float, Integer
from torch import Tensor

SATURATION = 0.75
VALUE = 0.95


def slot_colours(num_slots: int) -> Float[Tensor, "K 3"]:
    """RGB in [0, 1] per slot, hues evenly spaced from red; a function of slot and number of slots alone."""
    colours = [colorsys.hsv_to_rgb(slot / num_slots, SATURATION, VALUE) for slot in range(num_slots)]
    return torch.tensor(colours, dtype=torch.float32).view(num_slots, 3)


def colour_masks(masks: Float[Tensor, "*B K H W"]) -> Float[Tensor, "*B 3 H W"]:
    """Sum over slots of mask * slot colour: pure colours where masks are hard, blends where slots share a pixel."""
    colours = slot_colours(masks.shape[-3]).to(masks)
    return torch.einsum("...khw,kc->...chw", masks, colours)


def colour_labels(labels: Integer[Tensor, "*B H W"], num_objects: int) -> Float[Tensor, "*B 3 H W"]:
    """Label 0 (background) in black, labels 1 to num_objects in the colours of as many slots.

    Raises ValueError for labels outside 0 .. num_objects.
    """
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) > num_objects):
        raise ValueError(f"labels: expected 0 to {num_objects}, found {int(labels.min())} to {int(labels.max())}")
    palette = torch.cat([torch.zeros(1, 3), slot_colours(num_objects)]).to(labels.device)
    return palette[labels.long()].movedim(-1, -3)
