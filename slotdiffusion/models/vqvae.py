"""VQ-VAE (van den Oord et al. 2017; Esser et al. 2021) whose latents SlotDiffusion denoises, and its frozen form.

Shapes: N frames, or batch axes before them; latents have D channels and h = H / factor, w = W / factor places.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core.metrics.perceptual import LPIPS
from core.nn.noise import Noise
from core.training.checkpoint import CheckpointError, load, load_weights
from core.types import Decomposition
from slotdiffusion.models.autoencoder import Decoder, Encoder
from slotdiffusion.models.quantiser import Quantiser
from slotformer.framework.params import ParamsError

CPU_CHUNK_PIXELS = 1 << 16
GPU_CHUNK_PIXELS = 1 << 21
"""How many pixels the frozen VQ-VAE works on at a time: as few as keep the device busy, to save memory."""


@dataclass
class Reconstruction:
    """What a pass through the codes gave."""

    recon: Float[Tensor, "*batch 3 H W"]
    """In [-1, 1] but for errors."""
    latents: Float[Tensor, "*batch D h w"]
    """Before they are quantised."""
    quantised: Float[Tensor, "*batch D h w"]
    token_id: Int64[Tensor, "*batch h w"]
    """The codes."""
    quant_loss: Float[Tensor, ""]


def pictures_of(batch: dict[str, Tensor]) -> Float[Tensor, "*batch 3 H W"]:
    """`video` (B, T, 3, H, W) or `image` (B, 3, H, W), mapped from [0, 1] to [-1, 1]."""
    return 2 * (batch["video"] if "video" in batch else batch["image"]) - 1


class VQVAE(nn.Module):
    """VQ-VAE of frames, whose sides are multiples of `factor`, for `n_embed` codes of `embed_dim`.

    resolution: of the frames that `attn_resolutions` is about; others go through as well.
    percept_loss_w: of LPIPS, with which the reconstruction is compared by absolute errors, and without (0) by squared
        ones. LPIPS is not part of the weights: whoever trains sets `lpips` to `load_lpips("vgg")`.
    """

    def __init__(
        self,
        resolution: int = 128,
        in_channels: int = 3,
        z_channels: int = 3,
        ch: int = 64,
        ch_mult: Sequence[int] = (1, 2, 4),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (),
        out_ch: int = 3,
        dropout: float = 0.0,
        n_embed: int = 4096,
        embed_dim: int = 3,
        recon_loss_w: float = 1.0,
        quant_loss_w: float = 1.0,
        percept_loss_w: float = 1.0,
    ):
        super().__init__()
        self.factor = 2 ** (len(ch_mult) - 1)
        self.recon_loss_w = recon_loss_w
        self.quant_loss_w = quant_loss_w
        self.percept_loss_w = percept_loss_w
        layers = (z_channels, ch, ch_mult, num_res_blocks, attn_resolutions, dropout)
        self.encoder = Encoder(resolution, in_channels, *layers)
        self.decoder = Decoder(resolution, out_ch, *layers)
        self.quantize = Quantiser(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)
        self.to(memory_format=torch.channels_last)
        self.lpips: LPIPS | Callable[[Tensor, Tensor], Tensor] | None = None
        """Frozen, without dropout, and absent from the state dict."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Weighted sum of the terms for `batch["video"]` (B, T, 3, H, W) or `batch["image"]` (B, 3, H, W) in [0, 1].

        Terms: `recon_loss`, mean absolute error in [-1, 1], and `percept_loss`, LPIPS; or, if `percept_loss_w` is 0,
        the mean squared error and 0; `quant_loss` of the codes; in eval mode `recon_mse`. Nothing is drawn.

        Raises ValueError if LPIPS is wanted and not there.
        """
        images = pictures_of(batch)
        found = self(images)
        squared_error = F.mse_loss(found.recon, images)
        if self.percept_loss_w > 0:
            recon_loss = F.l1_loss(found.recon, images)
            percept_loss = self._perceptual_distances(found.recon, images).mean()
        else:
            recon_loss, percept_loss = squared_error, torch.zeros_like(squared_error)
        terms = {"recon_loss": recon_loss, "quant_loss": found.quant_loss, "percept_loss": percept_loss}
        total = sum(getattr(self, f"{name}_w") * value for name, value in terms.items())
        if not self.training:
            terms["recon_mse"] = squared_error
        return {"loss": total, **terms}

    def _perceptual_distances(
        self, recon: Float[Tensor, "*batch 3 H W"], images: Float[Tensor, "*batch 3 H W"]
    ) -> Float[Tensor, " N"]:
        if self.lpips is None:
            raise ValueError(
                f"percept_loss_w={self.percept_loss_w}: VQVAE.lpips is not set. Set it to "
                'core.metrics.perceptual.load_lpips("vgg"), or train by squared errors with percept_loss_w=0'
            )
        return self.lpips(recon.flatten(0, -4), images.flatten(0, -4))

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """The pictures that the codes give, and one mask that covers them: a VQ-VAE has no slots.

        Nothing is drawn. Extras: `tokens` (B, [T,] h, w), the codes.
        """
        images = pictures_of(batch)
        found = self(images)
        recon = (found.recon.float() / 2 + 0.5).clamp(0, 1)
        masks = torch.ones_like(recon[..., :1, :, :])
        return Decomposition(recon=recon, masks=masks, extras={"tokens": found.token_id})

    def forward(self, images: Float[Tensor, "*batch 3 H W"]) -> Reconstruction:
        """Reconstruct `images` in [-1, 1]."""
        latents = self.encode(images)
        quantised = self.quantize(latents.flatten(0, -4))
        axes = images.shape[:-3]
        return Reconstruction(
            self.decode(quantised.latents).unflatten(0, axes),
            latents,
            quantised.latents.unflatten(0, axes),
            quantised.codes.unflatten(0, axes),
            quantised.loss,
        )

    def encode(self, images: Float[Tensor, "*batch 3 H W"]) -> Float[Tensor, "*batch D h w"]:
        """Latents of `images` in [-1, 1], not quantised, in the precision of the weights."""
        height, width = images.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"VQVAE: frames of {height}x{width}, but a code describes {self.factor}x{self.factor} pixels: set "
                f"`resolution` to multiples of {self.factor}"
            )
        features = self.encoder(images.flatten(0, -4))
        with torch.autocast(images.device.type, enabled=False):
            return self.quant_conv(features).unflatten(0, images.shape[:-3])

    def decode(self, latents: Float[Tensor, "*batch D h w"]) -> Float[Tensor, "*batch 3 H W"]:
        """Pictures of latents as they are, quantised or not."""
        features = self.post_quant_conv(latents.flatten(0, -4))
        return self.decoder(features).unflatten(0, latents.shape[:-3])

    def tokenize(self, images: Float[Tensor, "*batch 3 H W"]) -> Int64[Tensor, "*batch h w"]:
        """The codes of `images` in [-1, 1]."""
        with torch.no_grad():
            return self.quantize.nearest(self.encode(images).flatten(0, -4)).unflatten(0, images.shape[:-3])

    def detokenize(self, tokens: Int64[Tensor, "*batch h w"]) -> Float[Tensor, "*batch 3 H W"]:
        """The pictures of codes, in [-1, 1] but for errors."""
        return self.decode(self.quantize.lookup(tokens.flatten(0, -3))).unflatten(0, tokens.shape[:-2])


class FrozenVQVAE(nn.Module):
    """A trained VQ-VAE around the latents that a diffusion model works on, which are `z_scale_factor` times smaller.

    It takes no gradient, stays in eval mode, and none of its parameters is for an optimiser. Its weights are part of
    the model's state dict, once, so that a checkpoint stands on its own; a fresh one is untrained (`load_vqvae`).
    """

    def __init__(self, vqvae: VQVAE, z_scale_factor: float = 1.0):
        super().__init__()
        self.vqvae = vqvae.requires_grad_(False)
        self.z_scale_factor = z_scale_factor
        self.eval()

    def train(self, mode: bool = True) -> "FrozenVQVAE":
        """Eval mode, whatever is asked for."""
        return super().train(False)

    def latents(self, batch: dict[str, Tensor]) -> Float[Tensor, "F D h w"]:
        """Of all F frames of `batch["video"]` or `batch["image"]` in [0, 1]; see `encode`.

        `batch["latents"]` (B, [T,] D, h, w), if there, holds what `VQVAE.encode` says of them, and nothing is computed.

        Raises ValueError if these are of another size than the frames'.
        """
        if "latents" not in batch:
            return self.encode(pictures_of(batch).flatten(0, -4))
        cached, factor = batch["latents"], self.vqvae.factor
        pictures = next((batch[key] for key in ("video", "image") if key in batch), None)
        if pictures is not None:
            expected = (*pictures.shape[:-3], cached.shape[-3], *(side // factor for side in pictures.shape[-2:]))
            if cached.shape != expected:
                raise ValueError(
                    f"latents: {tuple(cached.shape)} beside pictures of {tuple(pictures.shape)}, expected {expected}: "
                    "were they made at another resolution, or by another VQ-VAE? Make them again"
                )
        return cached.flatten(0, -4).float() / self.z_scale_factor

    def encode(self, images: Float[Tensor, "F 3 H W"]) -> Float[Tensor, "F D h w"]:
        """Latents of `images` in [-1, 1], not quantised."""
        return self._in_chunks(self.vqvae.encode, images, 1) / self.z_scale_factor

    def quantize(self, latents: Float[Tensor, "F D h w"]) -> Float[Tensor, "F D h w"]:
        """The latents on the codebook that are nearest."""
        with torch.no_grad():
            quantiser = self.vqvae.quantize
            return quantiser.lookup(quantiser.nearest(latents * self.z_scale_factor)) / self.z_scale_factor

    def decode(self, latents: Float[Tensor, "F D h w"], quantize: bool = True) -> Float[Tensor, "F 3 H W"]:
        """Pictures of latents, in [-1, 1] but for errors; by way of the codebook unless told otherwise."""
        latents = self.quantize(latents) if quantize else latents
        return self._in_chunks(self.vqvae.decode, latents * self.z_scale_factor, self.vqvae.factor)

    @torch.no_grad()
    def _in_chunks(self, step: Callable[[Tensor], Tensor], frames: Tensor, factor: int) -> Tensor:
        pixels = CPU_CHUNK_PIXELS if frames.device.type == "cpu" else GPU_CHUNK_PIXELS
        together = max(1, pixels // (factor**2 * frames.shape[-2] * frames.shape[-1]))
        return torch.cat([step(few) for few in frames.split(together)])


def load_vqvae(vqvae: VQVAE, path: str | Path | None, key: str = "dec_dict.vae_dict.vqvae_ckp_path") -> None:
    """Load the weights of a trained VQ-VAE from a checkpoint of ours or of the original's, bare or wrapped.

    `key` is where the configuration says `path`. Raises ParamsError if there is no such file, for latents of an
    untrained VQ-VAE are noise, and CheckpointError if it is damaged or holds other weights.
    """
    if not path or not Path(path).is_file():
        raise ParamsError(
            f"{key}: {path or 'no path'}: no such file. Train the VQ-VAE first, with a configuration vqvae_*_params.py "
            f"for the same data, or name its weights with --set {key}=FILE"
        )
    checkpoint = load(Path(path))
    state = next((checkpoint[name] for name in ("model", "state_dict") if name in checkpoint), checkpoint)
    names = {name: name.removeprefix("module.") for name, value in state.items() if isinstance(value, Tensor)}
    if not names:
        raise CheckpointError(f"{path}: holds no weights, neither ours (model) nor the original's (state_dict)")
    # The original's checkpoints hold the weights of LPIPS, too.
    weights = {name: state[stored] for stored, name in names.items() if not name.startswith("loss.")}
    load_weights(vqvae, weights, path)
