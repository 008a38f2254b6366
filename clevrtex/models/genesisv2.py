"""GENESIS-V2 (Engelcke, Parker Jones, Posner 2021): pixels are coloured, and slots grow around seeds among them.

Shapes: B images, K slots, D slot size, P pixels, C features per pixel. Differs from the original code, with equal
numbers: features are pooled for all slots at once and before the last layer, which is linear, and all slots are decoded
together.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.genesis_geco import GenesisGECO
from clevrtex.models.iodine_decoder import coordinate_grid
from clevrtex.models.monet import mixture_nll
from clevrtex.models.unet import UNet
from core.nn.noise import Noise, ShardedNoise, standard_normal
from core.nn.slot_chunks import split_slots
from core.types import Decomposition

SimilarityName = Literal["gaussian", "laplacian", "epanechnikov"]
NUM_COLOURS = 8


@dataclass
class Inference:
    """What one pass found. `nll` and `kl` are in nats per image."""

    nll: Float[Tensor, "B"]
    kl: Float[Tensor, "B"]
    """One sample's estimate of the slots' KL, and the masks' KL where it is asked for."""
    log_masks: Float[Tensor, "B K H W"]
    """That the decoder makes of the slots,"""
    log_attention: Float[Tensor, "B K H W"]
    """and those that the slots were pooled with."""
    rgb: Float[Tensor, "B K 3 H W"]
    mean: Float[Tensor, "B K D"]
    std: Float[Tensor, "B K D"]
    colours: Float[Tensor, "B 8 H W"]
    seeds: Float[Tensor, "B K1 8"]
    """Colours of the seeds of the first K - 1 slots."""


def clamp_forward(values: Float[Tensor, "*shape"], low: float, high: float) -> Float[Tensor, "*shape"]:
    """Clamped values with the gradient of the unclamped."""
    return values + (values.clamp(low, high) - values).detach()


def mask_kl(log_q: Float[Tensor, "B K H W"], log_p: Float[Tensor, "B K H W"]) -> Float[Tensor, "B"]:
    """KL of the slot that a pixel belongs to, summed over pixels. No probability counts as less than 1e-5."""
    q, p = (values.exp().clamp(min=1e-5) for values in (log_q, log_p))
    q, p = q / q.sum(dim=1, keepdim=True), p / p.sum(dim=1, keepdim=True)
    return (q * (q.log() - p.log())).flatten(1).sum(dim=1)


def conv_block(channels: int) -> list[nn.Module]:
    """3x3 convolution without bias, group normalisation, ReLU."""
    return [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(8, channels), nn.ReLU(inplace=True)]


class InstanceColouring(nn.Module):
    """Instance colouring stick-breaking process (Engelcke et al. 2021, algorithm 1).

    A pixel's colour is a projection of its features, with the pixel's position if `semi_convolution`. Each slot's seed
    is drawn among the pixels in proportion to what is left of them; the slot takes what looks like its seed.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        num_slots: int,
        num_features: int,
        similarity: SimilarityName,
        semi_convolution: bool,
    ):
        super().__init__()
        self.num_slots = num_slots
        self.similarity = similarity
        self.to_colour = nn.Conv2d(num_features, NUM_COLOURS, 1)
        self.gate = nn.Parameter(torch.zeros(1)) if semi_convolution else None
        sigma = {
            "gaussian": 1 / (num_slots * math.log(2)),
            "laplacian": 1 / (num_slots**0.5 * math.log(2)),
            "epanechnikov": 2 / num_slots,
        }
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma[similarity])))
        grid = torch.cat((torch.zeros(NUM_COLOURS - 2, *image_size), coordinate_grid(*image_size)))
        self.register_buffer("grid", grid, persistent=False)

    def colours(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 8 H W"]:
        colours = self.to_colour(features).float()
        return colours if self.gate is None else self.gate * colours + self.grid

    def forward(
        self, colours: Float[Tensor, "B 8 H W"], seed_map: Float[Tensor, "B H W"]
    ) -> tuple[Float[Tensor, "B K H W"], Float[Tensor, "B K1 8"]]:
        """Log masks and the seeds' colours. The seed is where `seed_map`, in [0, 1], times what is left is largest."""
        size, colours, seed_map = colours.shape[2:], colours.flatten(2), seed_map.flatten(1)
        log_scope = torch.zeros_like(seed_map)
        log_masks, seeds = [], []
        for _ in range(self.num_slots - 1):
            pixel = (seed_map * log_scope.exp()).argmax(dim=1)
            seed = colours.gather(2, pixel[:, None, None].expand(-1, NUM_COLOURS, -1))
            alpha = clamp_forward(self._similarity((colours - seed).square().sum(dim=1)), 0.01, 0.99)
            log_masks.append(log_scope + alpha.log())
            log_scope = log_scope + (1 - alpha).log()
            seeds.append(seed[:, :, 0])
        return torch.stack([*log_masks, log_scope], dim=1).unflatten(2, size), torch.stack(seeds, dim=1)

    def _similarity(self, squares: Float[Tensor, "B P"]) -> Float[Tensor, "B P"]:
        sigma = self.log_sigma.exp()
        if self.similarity == "gaussian":
            return (-squares / sigma).exp()
        if self.similarity == "laplacian":
            return (-clamp_forward(squares, 1e-10, 1e10).sqrt() / sigma).exp()
        return (1 - squares / sigma).relu()


class ComponentPosterior(nn.Module):
    """The posterior of every slot from the features under its mask."""

    def __init__(self, num_features: int, slot_size: int):
        super().__init__()
        self.features = nn.Sequential(*conv_block(num_features))
        self.project = nn.Linear(num_features, 2 * slot_size)
        self.head = nn.Sequential(
            nn.LayerNorm(2 * slot_size),
            nn.Linear(2 * slot_size, 2 * slot_size),
            nn.ReLU(),
            nn.Linear(2 * slot_size, 2 * slot_size),
        )

    def forward(
        self, maps: Float[Tensor, "B C H W"], log_masks: Float[Tensor, "B K H W"]
    ) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B K D"]]:
        """Mean and standard deviation."""
        features = self.features(maps).float()
        with torch.autocast(maps.device.type, enabled=False):
            masks = log_masks.exp().flatten(2)
            total = masks.sum(dim=2, keepdim=True)
            pooled = torch.bmm(masks, features.flatten(2).transpose(1, 2))
            # A linear layer on every pixel, then pooled, is that layer on what is pooled.
            pooled = (pooled @ self.project.weight.t() + self.project.bias * total) / (total + 1e-5)
            mean, scale = self.head(pooled).chunk(2, dim=-1)
            return mean, F.softplus(scale + 0.5) + 1e-8


class Prior(nn.Module):
    """p(z_1) = N(0, 1); later slots depend on those before through an LSTM."""

    def __init__(self, slot_size: int):
        super().__init__()
        self.lstm = nn.LSTM(slot_size, 4 * slot_size, batch_first=True)
        self.project = nn.Linear(4 * slot_size, 2 * slot_size)

    def forward(
        self, slots: Float[Tensor, "B K D"], state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B K D"], tuple[Tensor, Tensor]]:
        """Mean and standard deviation of the slot after each of `slots`, and the LSTM's state after the last."""
        hidden, state = self.lstm(slots, state)
        mean, scale = self.project(hidden).chunk(2, dim=-1)
        return mean.tanh(), (scale + 4).sigmoid() + 1e-4, state


class ComponentDecoder(nn.Module):
    """Every slot and two coordinates on a small grid, enlarged sixteenfold by transposed convolutions."""

    def __init__(self, image_size: tuple[int, int], slot_size: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before in (slot_size + 2, slot_size, slot_size, slot_size):
            layers += [
                nn.ConvTranspose2d(before, slot_size, 5, stride=2, padding=2, output_padding=1),
                nn.GroupNorm(8, slot_size),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(slot_size, 4, 1))
        grid = coordinate_grid(image_size[0] // 16, image_size[1] // 16)
        self.register_buffer("grid", grid.permute(1, 2, 0), persistent=False)
        self.floats_per_slot = slot_size * math.prod(image_size)

    def forward(self, slots: Float[Tensor, "S D"]) -> Float[Tensor, "S 4 H W"]:
        """RGB before any bound, and the logit of the mask."""
        pictures = []
        for few in split_slots(slots, self.floats_per_slot):
            broadcast = few[:, None, None].expand(-1, *self.grid.shape[:2], -1)
            # [S, H, W, C] is channels-last memory of [S, C, H, W].
            maps = torch.cat((broadcast, self.grid.expand(len(few), -1, -1, -1)), dim=-1).permute(0, 3, 1, 2)
            pictures.append(self.layers(maps).float().contiguous())
        return torch.cat(pictures)


class GenesisV2(nn.Module):
    """GENESIS-V2 for images of `image_size` (h, w); slots and features have `slot_size` channels.

    `goal` is the error per value that GECO aims at. `pixel_bound` squashes the slots' pictures into [0, 1]. `mask_kl`
    adds the KL of the attention's masks from the decoder's, of which `detach_masks` keeps the gradient. `as_original`
    lets GECO learn from evaluation too, as in the original.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        num_slots: int = 11,
        slot_size: int = 64,
        goal: float = 0.5655,
        pixel_std: float = 0.7,
        similarity: SimilarityName = "gaussian",
        semi_convolution: bool = True,
        autoregressive_prior: bool = True,
        pixel_bound: bool = True,
        mask_kl: bool = False,
        detach_masks: bool = True,
        as_original: bool = False,
    ):
        super().__init__()
        num_blocks = min(int(math.log2(min(image_size))) - 1, 6)
        factor = max(16, 2 ** (num_blocks - 1))
        if num_blocks < 4 or any(length % factor for length in image_size):
            raise ValueError(
                f"--data: GENESIS-V2 cannot halve images of {image_size[0]}x{image_size[1]} {num_blocks - 1} times; "
                f"use sides of at least 32 that are multiples of {factor}, as in --data 'clevr-crop-(128,128)'"
            )
        self.num_slots = num_slots
        self.slot_size = slot_size
        self.pixel_bound = pixel_bound
        self.mask_kl = mask_kl
        self.detach_masks = detach_masks
        self.as_original = as_original
        self.encoder = UNet(3, [slot_size] * (num_blocks - 3) + [2 * slot_size] * 3, image_size, num_groups=8)
        self.segmentation = nn.Sequential(*conv_block(slot_size))
        self.colouring = InstanceColouring(image_size, num_slots, slot_size, similarity, semi_convolution)
        self.posterior = ComponentPosterior(slot_size, slot_size)
        self.prior = Prior(slot_size) if autoregressive_prior else None
        self.decoder = ComponentDecoder(image_size, slot_size)
        self.register_buffer("pixel_std", torch.tensor(pixel_std), persistent=False)
        num_pixels = math.prod(image_size)
        self.geco = GenesisGECO(goal * 3 * num_pixels, step_size=1e-5 * 64**2 / num_pixels)
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Reconstruction error and weighted KL, mean over images; `batch["image"]` (B, 3, H, W) in [0, 1].

        Terms in nats per image: `rec_loss`, `kl`, `elbo` (their sum); and `beta`, GECO's weight in this loss. A
        training run must call `after_step`.
        """
        image = batch["image"]
        found = self(image, self.noise.at(step, image.device) if self.noise else None)
        error, kl = found.nll.mean(), found.kl.mean()
        terms = {"loss": self.geco.loss(error, kl), "rec_loss": error, "kl": kl, "elbo": error + kl}
        terms["beta"] = self.geco.beta.clone()
        if self.as_original and not self.training:
            self.geco.update(error)
        return terms

    def after_step(self, step: int, terms: dict[str, Tensor]) -> None:
        """Move GECO by the `rec_loss` of a step; one of the trainer's `controllers`."""
        self.geco.update(terms["rec_loss"])

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """The decoder's masks and pictures of sampled slots, and the means of the slots.

        Extras: `other_masks` (B, K, H, W), those of the instance colouring; `colours` (B, 8, H, W); `kl` and `nll`
        per image (nats).
        """
        found = self(batch["image"], noise)
        extras = {"other_masks": found.log_attention.exp(), "colours": found.colours, "kl": found.kl, "nll": found.nll}
        return _decomposition(found.log_masks.exp(), found.rgb, found.mean, extras)

    @torch.no_grad()
    def sample(self, count: int, noise: Noise | None = None) -> Decomposition:
        """`count` pictures of slots from the prior; the draws `slot_0`, `slot_1`, ... have the shape (count, D)."""
        noise = noise or standard_normal(self.decoder.grid.device)
        slots, state = [noise("slot_0", (count, self.slot_size))], None
        for k in range(1, self.num_slots):
            draw = noise(f"slot_{k}", (count, self.slot_size))
            if self.prior is not None:
                mean, std, state = self.prior(slots[-1][:, None], state)
                draw = mean[:, 0] + std[:, 0] * draw
            slots.append(draw)
        rgb, log_masks = self._decode(torch.stack(slots, dim=1))
        return _decomposition(log_masks.exp(), rgb, torch.stack(slots, dim=1), {})

    def forward(self, image: Float[Tensor, "B 3 H W"], noise: Noise | None = None) -> Inference:
        """Decompose `image` in [0, 1].

        The draws are `seed_map` (B, 1, H, W), whose normal distribution function is uniform, then `slot_0`, `slot_1`,
        ... (B, D).
        """
        noise = noise or standard_normal(image.device)
        maps = self.encoder(self.encoder.down[0].convolutions[0](image))
        colours = self.colouring.colours(self.segmentation(maps))
        seed_map = torch.special.ndtr(noise("seed_map", (len(image), 1, *image.shape[2:]))).float()
        log_attention, seeds = self.colouring(colours, seed_map[:, 0])
        mean, std = self.posterior(maps, log_attention)
        shape = (len(image), self.slot_size)
        draws = torch.stack([noise(f"slot_{k}", shape) for k in range(self.num_slots)], dim=1)
        slots = mean + std * draws
        rgb, log_masks = self._decode(slots)
        nll = mixture_nll(image, rgb, log_masks, self.pixel_std)
        kl = self._kl(slots, std, draws)
        if self.mask_kl:
            kl = kl + mask_kl(log_attention, log_masks.detach() if self.detach_masks else log_masks)
        return Inference(nll, kl, log_masks, log_attention, rgb, mean, std, colours, seeds)

    def _decode(self, slots: Float[Tensor, "B K D"]) -> tuple[Float[Tensor, "B K 3 H W"], Float[Tensor, "B K H W"]]:
        pictures = self.decoder(slots.flatten(0, 1)).unflatten(0, slots.shape[:2])
        rgb, logits = pictures[:, :, :3], pictures[:, :, 3]
        return rgb.sigmoid() if self.pixel_bound else rgb, logits.log_softmax(dim=1)

    def _kl(
        self, slots: Float[Tensor, "B K D"], std: Float[Tensor, "B K D"], draws: Float[Tensor, "B K D"]
    ) -> Float[Tensor, "B"]:
        """log q - log p of the sampled slots, where q's mean + std * draws are the slots."""
        log_q = -draws.square() / 2 - std.log()
        log_p = -slots.square() / 2
        if self.prior is not None:
            with torch.autocast(slots.device.type, enabled=False):
                prior_mean, prior_std, _ = self.prior(slots[:, :-1])
            later = -((slots[:, 1:] - prior_mean) / prior_std).square() / 2 - prior_std.log()
            log_p = torch.cat((log_p[:, :1], later), dim=1)
        return (log_q - log_p).flatten(1).sum(dim=1)


def _decomposition(
    masks: Float[Tensor, "B K H W"], rgb: Float[Tensor, "B K 3 H W"], slots: Float[Tensor, "B K D"], extras: dict
) -> Decomposition:
    recon = torch.einsum("bkhw,bkchw->bchw", masks, rgb).clamp(0, 1)
    return Decomposition(recon=recon, masks=masks, rgb=rgb.clamp(0, 1), slots=slots, extras=extras)
