"""The discrete VAE that SLATE's words come from, for pictures."""

from torch import Tensor

from core.nn.noise import Noise
from core.types import Decomposition
from slotdiffusion.models.pictures import as_videos
from slotformer.base_slots.models import dvae


class dVAE(dvae.dVAE):
    """STEVE's dVAE for pictures `batch["image"]` (B, 3, H, W)."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """The terms of the model of videos."""
        return super().loss(as_videos(batch), step)

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """What the model of videos says; `tokens` are (B, h, w)."""
        found = super().decompose(as_videos(batch), noise)
        tokens = found.extras["tokens"][:, 0]
        return Decomposition(recon=found.recon[:, 0], masks=found.masks[:, 0], extras={"tokens": tokens})
