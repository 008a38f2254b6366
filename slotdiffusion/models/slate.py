"""SLATE (Singh et al. 2022, "Illiterate DALL-E learns to compose") as SlotDiffusion's baseline: STEVE for pictures."""

from slotdiffusion.models.pictures import OfPictures
from slotdiffusion.models.steve import STEVE


class SLATE(OfPictures, STEVE):
    """STEVE for pictures `batch["image"]` (B, 3, H, W) of `resolution` (h, w); their words are `token_id` (B, L)."""
