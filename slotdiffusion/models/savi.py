"""SAVi (Kipf et al. 2022) as SlotDiffusion's baseline: learned slots, pictures by a spatial broadcast decoder.

Shapes: B videos, T frames, N slots, D slot size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.nn.conv_blocks import Norm
from slotdiffusion.models.slot_encoder import SlotEncoder
from slotformer.base_slots.models.encoder import Track
from slotformer.base_slots.models.pixel_autoencoder import PixelAutoencoder


class SAVi(SlotEncoder, PixelAutoencoder):
    """SAVi for videos of `resolution` (h, w); nothing is drawn. `options` are those of `SlotEncoder`."""

    def __init__(
        self,
        resolution: tuple[int, int] = (128, 128),
        dec_channels: tuple[int, ...] = (192, 64, 64, 64, 64),
        dec_resolution: tuple[int, int] = (8, 8),
        dec_ks: int = 5,
        dec_norm: Norm = "",
        use_img_recon_loss: bool = True,
        img_recon_loss_w: float = 1.0,
        frames_per_part: int | None = None,
        **options: Any,
    ):
        if not use_img_recon_loss:
            raise ValueError("loss_dict: use_img_recon_loss=False leaves SAVi without a loss")
        super().__init__(resolution=resolution, **options)
        self.add_decoder(dec_channels, dec_resolution, dec_ks, dec_norm, resolution, frames_per_part)
        self.img_recon_loss_w = img_recon_loss_w

    def terms(self, slots: Float[Tensor, "B T N D"], batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """`img_recon_loss`, the mean squared error in [-1, 1], of the slots of all frames of `batch["video"]`."""
        error = self.reconstruction_error(slots, 2 * batch["video"] - 1)
        return {"loss": self.img_recon_loss_w * error, "img_recon_loss": error}

    def segmentation(self, track: Track, size: Sequence[int]) -> Float[Tensor, "B T N H W"]:
        """The masks that slots are decoded to, `clip_len` frames at a time, which have the size of the pictures."""
        return torch.cat([self.decode(clip).masks for clip in track.slots.split(self.clip_len, dim=1)], dim=1)
