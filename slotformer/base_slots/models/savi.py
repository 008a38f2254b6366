"""SAVi (Kipf et al. 2022) and its stochastic variant: the base models of SlotFormer (Wu et al. 2023) that draw pixels.

Shapes: B videos, T frames, N slots, D slot size.
"""

import math

from jaxtyping import Float
from torch import Tensor, nn

from core.nn.conv_blocks import Norm
from core.nn.noise import Noise, ShardedNoise, standard_normal
from slotformer.base_slots.models.encoder import ConvEncoder
from slotformer.base_slots.models.pixel_autoencoder import PixelAutoencoder
from slotformer.base_slots.models.predictors import build_predictor


def kernel_divergence(kernels: Float[Tensor, "*shape C"], variance: float) -> Float[Tensor, ""]:
    """KL from N(mu, sigma^2), given as (mu, log sigma^2), to N(mu, `variance`): summed over D, mean over the rest.

    It holds sigma up only: both have the same mean, which has no gradient.
    """
    log_variance = kernels.chunk(2, dim=-1)[1]
    kl = (math.log(variance) - log_variance + log_variance.exp() / variance - 1) / 2
    return kl.sum(dim=-1).mean()


def _prior_variance(kld_method: str) -> float | None:
    """V of 'var-V', 1 of 'var', None of 'none'. Raises ValueError."""
    if kld_method == "none":
        return None
    name, dash, number = kld_method.partition("-")
    try:
        variance = float(number) if dash else 1.0
    except ValueError:
        variance = 0.0
    if name != "var" or variance <= 0:
        raise ValueError(f"kld_method={kld_method!r} is not 'none', 'var' or 'var-' and a variance, as in 'var-0.01'")
    return variance


class StoSAVi(PixelAutoencoder):
    """SAVi for videos of `resolution` (h, w); with a `kld_method` the slots of a frame begin at samples.

    In every frame the latents go through a layer to (mu, log sigma^2) of a Gaussian, the kernel. Slot attention begins
    at mu where `kld_method` is 'none', else at a sample, in training and evaluation alike, and 'var-V' holds sigma^2
    near V.
    """

    def __init__(
        self,
        resolution: tuple[int, int] = (64, 64),
        clip_len: int = 6,
        num_slots: int = 6,
        slot_size: int = 128,
        slot_mlp_size: int = 256,
        num_iterations: int = 2,
        kernel_mlp: bool = True,
        enc_channels: tuple[int, ...] = (3, 64, 64, 64, 64),
        enc_ks: int = 5,
        enc_out_channels: int = 128,
        enc_norm: Norm = "",
        dec_channels: tuple[int, ...] = (128, 64, 64, 64, 64),
        dec_resolution: tuple[int, int] = (8, 8),
        dec_ks: int = 5,
        dec_norm: Norm = "",
        pred_type: str = "transformer",
        pred_rnn: bool = True,
        pred_norm_first: bool = True,
        pred_num_layers: int = 2,
        pred_num_heads: int = 4,
        pred_ffn_dim: int = 512,
        pred_sg_every: int | None = None,
        use_post_recon_loss: bool = True,
        kld_method: str = "none",
        post_recon_loss_w: float = 1.0,
        kld_loss_w: float = 1e-4,
        eps: float = 1e-6,
        dropout: float = 0.1,
        frames_per_part: int | None = None,
    ):
        if not use_post_recon_loss and kld_method == "none":
            raise ValueError("use_post_recon_loss=False leaves no loss with kld_method='none', expected 'var'")
        transformer = (pred_norm_first, pred_num_layers, pred_num_heads, pred_ffn_dim)
        super().__init__(
            lambda: ConvEncoder(enc_channels, enc_ks, enc_norm, resolution),
            build_predictor(slot_size, slot_mlp_size, pred_type, pred_rnn, *transformer, pred_sg_every, dropout),
            clip_len,
            num_slots,
            slot_size,
            slot_mlp_size,
            num_iterations,
            enc_out_channels,
            eps,
        )
        kernel_size = 2 * slot_size
        layers: list[nn.Module] = [nn.Linear(slot_size, kernel_size)]
        if kernel_mlp:
            layers += [nn.LayerNorm(kernel_size), nn.ReLU(), nn.Linear(kernel_size, kernel_size)]
        self.kernel_dist_layer = nn.Sequential(*layers)
        self.add_decoder(dec_channels, dec_resolution, dec_ks, dec_norm, resolution, frames_per_part)
        self.prior_variance = _prior_variance(kld_method)
        self.use_post_recon_loss = use_post_recon_loss
        self.post_recon_loss_w = post_recon_loss_w
        self.kld_loss_w = kld_loss_w
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Weighted sum of the terms for `batch["video"]` (B, T, 3, H, W) in [0, 1], in one pass whatever T.

        Terms: `post_recon_loss`, the mean squared error in [-1, 1] (if used), and `kld_loss` in nats per slot.
        """
        video = 2 * batch["video"] - 1
        noise = self.noise.at(step, video.device) if self.noise else standard_normal(video.device)
        track = self.track(video, noise)
        kld = track.origins.new_zeros(())
        if self.prior_variance is not None:
            kld = kernel_divergence(track.origins, self.prior_variance)
        terms = {"kld_loss": kld}
        total = self.kld_loss_w * kld
        if self.use_post_recon_loss:
            terms["post_recon_loss"] = self.reconstruction_error(track.slots, video)
            total = total + self.post_recon_loss_w * terms["post_recon_loss"]
        return {"loss": total, **terms}

    def initial_slots(
        self, latents: Float[Tensor, "B N D"], noise: Noise
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N C"]]:
        """Mean or sample of the kernels, and the kernels; the draw `kernel`, of each frame, has the slots' shape."""
        kernels = self.kernel_dist_layer(latents)
        mean, log_variance = kernels.chunk(2, dim=-1)
        if self.prior_variance is None:
            return mean, kernels
        return mean + (log_variance / 2).exp() * noise("kernel", tuple(mean.shape)), kernels
