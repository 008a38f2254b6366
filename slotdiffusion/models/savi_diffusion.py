"""SlotDiffusion for videos (Wu et al. 2023): slots as SAVi finds them, and latent diffusion that is told of them.

Shapes: B videos, T frames, N slots, D slot size.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.types import Decomposition
from slotdiffusion.models.latent_diffusion import build_decoder
from slotdiffusion.models.slot_encoder import SlotEncoder
from slotformer.base_slots.models.encoder import ClipState, Track
from slotformer.framework.params import ParamsError


class SAViDiffusion(SlotEncoder):
    """SlotDiffusion for videos of `resolution` (h, w).

    `options` are those of `SlotEncoder`; see `LatentDiffusion` for `dec_dict`. The VQ-VAE begins untrained: load its
    weights into `dm_decoder.vae.vqvae`, or those of a whole model. Raises ParamsError where `dec_dict` does not fit the
    slots or the resolution.
    """

    def __init__(
        self,
        dec_dict: Mapping[str, Any],
        resolution: tuple[int, int] = (128, 128),
        slot_size: int = 192,
        use_denoise_loss: bool = True,
        denoise_loss_w: float = 1.0,
        as_original: bool = False,
        **options: Any,
    ):
        if not use_denoise_loss:
            raise ParamsError("loss_dict: use_denoise_loss=False leaves SlotDiffusion without a loss")
        super().__init__(resolution=resolution, slot_size=slot_size, **options)
        self.dm_decoder = build_decoder(dec_dict, as_original=as_original)
        self.dm_decoder.check_fits(resolution, slot_size)
        self.denoise_loss_w = denoise_loss_w
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def terms(self, slots: Float[Tensor, "B T N D"], batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """`denoise_loss`, see `LatentDiffusion.loss`, of the slots of all frames of `batch["video"]`.

        Every frame has a time and noise of its own. `batch["latents"]` (B, T, C, h, w), if there, holds what the VQ-VAE
        says of the frames. With an average of weights there is also its loss in eval mode, `denoise_loss_ema`.
        """
        video, slots, decoder = batch["video"], slots.flatten(0, 1), self.dm_decoder
        clean = decoder.clean(batch)
        loss = decoder.loss(clean, slots, self._draws(step, video))
        terms = {"loss": self.denoise_loss_w * loss, "denoise_loss": loss}
        if decoder.model_ema is not None and not self.training:
            with torch.no_grad(), decoder.average_scope():
                terms["denoise_loss_ema"] = decoder.loss(clean, slots, self._draws(step, video))
        return terms

    def decompose(
        self,
        batch: dict[str, Tensor],
        noise: Noise | None = None,
        steps: int | None = None,
        same_noise: bool = False,
    ) -> Decomposition:
        """Slots of all frames, attention of the last iteration as masks, and what `generate` makes of the slots.

        That is cut to [0, 1]; it takes much longer than all else: `segment` and `extract` do without.
        """
        video = batch["video"]
        tracks = list(self._tracks(video))
        slots = torch.cat([track.slots for track in tracks], dim=1)
        masks = torch.cat([self.masks(track, video.shape[-2:]) for track in tracks], dim=1)
        recon = self.generate(slots, noise or standard_normal(video.device), steps, same_noise=same_noise)
        return Decomposition(recon=(recon / 2 + 0.5).clamp(0, 1), masks=masks, slots=slots)

    def decompose_next(
        self, batch: dict[str, Tensor], noise: Noise | None = None, state: ClipState | None = None
    ) -> tuple[Decomposition, ClipState]:
        """As `decompose`, of a clip that begins where one left `state`; also what it leaves itself."""
        video = batch["video"]
        track = self.track(2 * video - 1, standard_normal(video.device), state)
        recon = self.generate(track.slots, noise or standard_normal(video.device))
        masks = self.masks(track, video.shape[-2:])
        found = Decomposition(recon=(recon / 2 + 0.5).clamp(0, 1), masks=masks, slots=track.slots)
        return found, track.state

    def segment(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Float[Tensor, "B T N H W"]:
        """The masks of `decompose` alone. Nothing is drawn."""
        size = batch["video"].shape[-2:]
        return torch.cat([self.masks(track, size) for track in self._tracks(batch["video"])], dim=1)

    def extract(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Float[Tensor, "B T N D"]:
        """Slots of all frames, without masks and pictures. Nothing is drawn."""
        return torch.cat([track.slots for track in self._tracks(batch["video"])], dim=1)

    def generate(
        self, slots: Float[Tensor, "B T N D"], noise: Noise, steps: int | None = None, **options: Any
    ) -> Float[Tensor, "B T 3 H W"]:
        """Pictures of slots, also of mixed or predicted ones, in [-1, 1] but for errors.

        `clip_len` frames of each video at a time; for `options` see `LatentDiffusion.generate`.
        """
        return self.dm_decoder.generate(slots, noise, len(slots) * self.clip_len, steps, **options)

    def _draws(self, step: int, video: Float[Tensor, "B T 3 H W"]) -> Noise:
        """Of frames, a row of each video."""
        noise = self.noise.at(step, video.device) if self.noise else standard_normal(video.device)
        return lambda name, shape: noise(name, (*video.shape[:2], *shape[1:])).flatten(0, 1)

    def _tracks(self, video: Float[Tensor, "B T 3 H W"]) -> Iterator[Track]:
        return self.track_clips(2 * video - 1, standard_normal(video.device))
