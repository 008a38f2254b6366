"""SlotFormer (Wu et al. 2023) for the slots of SlotDiffusion, whose latent diffusion shows what it predicts.

Shapes: B videos, T = P + K frames, of which P are seen and K predicted, N slots, D slot size; F = B K.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.nn.noise import Noise, ShardedNoise, standard_normal
from slotdiffusion.models.diffusion import Correction, Maps, dynamic_threshold
from slotdiffusion.models.dpm_solver import singlestep_updates, solve
from slotdiffusion.models.latent_diffusion import build_decoder
from slotformer.framework.annealing import temporal_weights
from slotformer.video_prediction.models.rollouter import SlotRollouter
from slotformer.video_prediction.models.slotformer import split_clip

SOLVER_STEPS = 20
"""Evaluations of the network that a picture takes in training; as many as in sampling."""
FRAMES_AT_A_TIME = {"cpu": 4, "cuda": 128}
"""That are sampled together: what the memory holds."""


def straight_through(correct: Correction) -> Correction:
    """`correct`, through which gradients pass as if it did nothing."""

    def corrected(clean: Maps) -> Maps:
        return clean + (correct(clean) - clean).detach()

    return corrected


class LDMSlotFormer(nn.Module):
    """SlotFormer for slots of pictures of `resolution` (h, w); sees `history_len` frames, then `rollout_len` follow.

    See `LatentDiffusion` for `dec_dict`, whose `dec_ckp_path` is not read here. The decoder is frozen and begins
    untrained: load the weights of a SlotDiffusion's into `dm_decoder`. With `use_denoise_loss` predicted slots must
    also tell it what noise the frames were given, and with `use_img_recon_loss` the pictures must be right that
    DPM-Solver++ samples of them; gradients pass through all of the solver, which takes many times as long as all else.
    There are no masks, hence no `decompose`.

    Raises ParamsError where `dec_dict` does not fit the slots or the resolution.
    """

    def __init__(
        self,
        dec_dict: Mapping[str, Any],
        resolution: tuple[int, int] = (128, 128),
        num_slots: int = 8,
        slot_size: int = 192,
        history_len: int = 15,
        t_pe: str = "sin",
        slots_pe: str = "",
        d_model: int = 256,
        num_layers: int = 12,
        num_heads: int = 8,
        ffn_dim: int = 1024,
        norm_first: bool = True,
        rollout_len: int = 10,
        use_denoise_loss: bool = False,
        use_img_recon_loss: bool = False,
        slot_recon_loss_w: float = 1.0,
        denoise_loss_w: float = 1.0,
        img_recon_loss_w: float = 1.0,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.history_len = history_len
        self.rollout_len = rollout_len
        self.use_denoise_loss = use_denoise_loss
        self.use_img_recon_loss = use_img_recon_loss
        self.slot_recon_loss_w = slot_recon_loss_w
        self.denoise_loss_w = denoise_loss_w
        self.img_recon_loss_w = img_recon_loss_w
        self.loss_decay_factor = 1.0
        """How much the slots of a predicted frame count in training beside those of the frame before it."""
        self.dm_decoder = build_decoder(dec_dict, ignored={"dec_ckp_path"}).requires_grad_(False)
        self.dm_decoder.check_fits(resolution, slot_size)
        transformer = (d_model, num_layers, num_heads, ffn_dim, norm_first, dropout)
        self.rollouter = SlotRollouter(num_slots, slot_size, history_len, t_pe, slots_pe, *transformer)
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""
        self.train()

    def train(self, mode: bool = True) -> "LDMSlotFormer":
        """The frozen decoder stays in evaluation mode: there is no dropout in it."""
        super().train(mode)
        self.dm_decoder.eval()
        return self

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Weighted sum of the terms for `batch["slots"]` (B, T, N, D).

        Terms: `slot_recon_loss`, the mean squared error of predicted slots, and, if used, `denoise_loss`, see
        `LatentDiffusion.loss`, and `img_recon_loss`, the mean squared error of pictures in [-1, 1]; for these two
        `batch["video"]` (B, T, 3, H, W) in [0, 1] is needed. Every frame has a time and noise of its own.
        """
        past, future = split_clip(batch["slots"], self.history_len, self.rollout_len)
        predicted = self.rollouter(past, self.rollout_len)
        factor = self.loss_decay_factor if self.training else 1.0
        weights = temporal_weights(factor, self.rollout_len).to(past.device)
        errors = (predicted - future).square().mean(dim=(0, 2, 3))
        terms = {"slot_recon_loss": (errors * weights).mean()}
        noise = self._draws(step, predicted)
        if self.use_denoise_loss:
            clean = self.dm_decoder.clean({"video": batch["video"][:, self.history_len :]})
            terms["denoise_loss"] = self.dm_decoder.loss(clean, predicted.flatten(0, 1), noise)
        if self.use_img_recon_loss:
            frames = 2 * batch["video"][:, self.history_len :].flatten(0, 1) - 1
            terms["img_recon_loss"] = F.mse_loss(self._sample(predicted.flatten(0, 1), noise).float(), frames)
        return {"loss": sum(getattr(self, f"{name}_w") * value for name, value in terms.items()), **terms}

    def rollout(self, past: Float[Tensor, "B P N D"], num_steps: int) -> Float[Tensor, "B K N D"]:
        """The slots of the `num_steps` frames that follow `past`, of which the newest `history_len` are looked at."""
        return self.rollouter(past, num_steps)

    def generate(self, slots: Float[Tensor, "B T N D"], noise: Noise, **solver: Any) -> Float[Tensor, "B T 3 H W"]:
        """Pictures of slots, in [-1, 1] but for errors; for `solver` see `LatentDiffusion.generate`."""
        return self.dm_decoder.generate(slots, noise, FRAMES_AT_A_TIME[slots.device.type], **solver)

    def _draws(self, step: int, slots: Float[Tensor, "B K N D"]) -> Noise:
        """Of frames, a row of each video."""
        noise = self.noise.at(step, slots.device) if self.noise else standard_normal(slots.device)
        return lambda name, shape: noise(name, (*slots.shape[:2], *shape[1:])).flatten(0, 1)

    def _sample(self, slots: Float[Tensor, "F N D"], noise: Noise) -> Float[Tensor, "F 3 H W"]:
        """What `generate` makes, with gradients, of the denoiser's own weights also where there is an average.

        Each evaluation is done again for them, which bounds the memory.
        """
        decoder, vae = self.dm_decoder, self.dm_decoder.vae
        correct = straight_through(vae.quantize if vae else dynamic_threshold)
        estimate = decoder.estimator(slots, correct)
        start = noise("start", (len(slots), decoder.channels, *decoder.resolution))
        updates = singlestep_updates(decoder.schedule, SOLVER_STEPS, decoder.network_timesteps)
        *_, clean = solve(
            start, updates, lambda state, moment: checkpoint(estimate, state, moment, use_reentrant=False)
        )
        return vae.vqvae.decode(correct(clean) * vae.z_scale_factor) if vae else clean
