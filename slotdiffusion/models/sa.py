"""Slot Attention (Locatello et al. 2020) as SlotDiffusion's baseline: slots that begin at learned places."""

from typing import Any

from slotdiffusion.models.pictures import OfPictures
from slotdiffusion.models.savi import SAVi


class SA(OfPictures, SAVi):
    """SAVi for pictures `batch["image"]` (B, 3, H, W) of `resolution` (h, w)."""

    def __init__(self, dec_channels: tuple[int, ...] = (192, 128, 128, 128, 128), **options: Any):
        super().__init__(dec_channels=dec_channels, **options)
