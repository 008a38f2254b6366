"""SlotDiffusion for pictures (Wu et al. 2023)."""

from slotdiffusion.models.pictures import OfPictures
from slotdiffusion.models.savi_diffusion import SAViDiffusion


class SADiffusion(OfPictures, SAViDiffusion):
    """SAViDiffusion for pictures `batch["image"]` (B, 3, H, W) of `resolution` (h, w); `latents` are (B, C, h, w)."""
