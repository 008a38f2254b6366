"""SPACE's background (Lin et al. 2020, section 2.2; GENESIS, Engelcke et al. 2020): components, one mask after another.

Shapes: B images, K components, D size of a latent variable. Differs from the original code, with equal numbers: the
mask of the last component, which is what the others leave over, is not decoded; what the component decoder's first
convolution makes of the positions is computed once.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.batch_norm import BatchNorm2d
from clevrtex.models.celu_layers import Layer, convolution
from clevrtex.models.iodine_decoder import coordinate_grid
from clevrtex.models.latents import gaussian
from clevrtex.models.recomputing import Recomputing
from clevrtex.models.space_sizes import Sizes, enlarging_layers, scales_to
from core.nn.noise import Noise
from emorl.models.gaussian import DiagonalGaussian, kl_divergence

LEAST_STD = 1e-4
LEAST_MASK = 1e-5
LATE = (256, 16), (128, 16), (64, 8), (16, 4)
"""Channels and groups of the layers that enlarge a vector to a picture."""


@dataclass
class Background:
    """What the background found. `log_likelihood` is of every value of the image, `kl` in nats per image."""

    log_likelihood: Float[Tensor, "B 3 H W"]
    picture: Float[Tensor, "B 3 H W"]
    masks: Float[Tensor, "B K H W"]
    components: Float[Tensor, "B K 3 H W"]
    kl: Float[Tensor, "B"]


def encoder_layers(image_side: int, channels: int, widths: tuple[int, ...], outputs: int) -> list[nn.Module]:
    """Halving convolutions with batch normalisation and ELU, then a linear layer."""
    modules: list[nn.Module] = []
    for width in widths:
        modules += [nn.Conv2d(channels, width, 3, stride=2, padding=1), BatchNorm2d(width), nn.ELU(inplace=True)]
        channels = width
    return [*modules, nn.Flatten(), nn.Linear(channels * (image_side >> len(widths)) ** 2, outputs)]


def picture_decoder(image_side: int, latent_size: int, channels: int, scales: tuple[int, ...]) -> Recomputing:
    """A vector as a map of one pixel, enlarged to `channels` of a picture before any squashing."""
    layers = [Layer(width, 1, scale, groups) for (width, groups), scale in zip(LATE, scales_to(image_side, scales))]
    last = LATE[-1][0]
    return Recomputing(
        *enlarging_layers(latent_size, layers),
        *convolution(last, Layer(last, 3, 1, LATE[-1][1])),
        nn.Conv2d(last, channels, 3, padding=1),
    )


class ComponentDecoder(nn.Module):
    """Spatial broadcast decoder (Watters et al. 2019): unpadded convolutions over the vector and two coordinates.

    Over the vector, which is the same everywhere, the first convolution is a product with the sum of its kernel.
    """

    def __init__(self, image_side: int, latent_size: int):
        super().__init__()
        modules: list[nn.Module] = []
        for channels in (latent_size + 2, 32, 32, 32):
            modules += [nn.Conv2d(channels, 32, 3), BatchNorm2d(32), nn.ELU(inplace=True)]
        self.layers = Recomputing(*modules, nn.Conv2d(32, 3, 1))
        grid = coordinate_grid(image_side + 8, image_side + 8).flip(0)  # columns before rows
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, latents: Float[Tensor, "S D"]) -> Float[Tensor, "S 3 H W"]:
        first, rest = self.layers[0], self.layers[1:]
        of_latent, of_grid = first.weight.split((latents.shape[1], 2), dim=1)
        vectors = (latents @ of_latent.sum(dim=(2, 3)).t())[:, :, None, None]
        shared = F.conv2d(self.grid[None], of_grid, first.bias).contiguous(memory_format=torch.channels_last)
        return rest(vectors + shared).float().contiguous()


class BackgroundModule(nn.Module):
    """Masks by stick breaking, whose latent variables depend on those before, and a VAE for each component."""

    def __init__(self, image_side: int, num_components: int, std: float, sizes: Sizes):
        super().__init__()
        self.image_side = image_side
        self.num_components = num_components
        self.std = std
        hidden = sizes.mask_hidden
        features = encoder_layers(image_side, 3, (64,) * 4, sizes.background_features)
        self.image_encoder = Recomputing(*features, nn.ELU())
        self.first_mask = nn.Parameter(torch.zeros(sizes.mask))
        self.mask_hidden = nn.Parameter(torch.zeros(hidden))
        self.mask_cell = nn.Parameter(torch.zeros(hidden))
        self.mask_lstm = nn.LSTMCell(sizes.mask + sizes.background_features, hidden)
        self.mask_posterior = nn.Linear(hidden, 2 * sizes.mask)
        self.mask_decoder = picture_decoder(image_side, sizes.mask, 1, (4, 2, 4, 4))
        self.prior_hidden = nn.Parameter(torch.zeros(hidden))
        self.prior_cell = nn.Parameter(torch.zeros(hidden))
        self.prior_lstm = nn.LSTMCell(sizes.mask, hidden)
        self.mask_prior = nn.Linear(hidden, 2 * sizes.mask)
        self.component_encoder = Recomputing(*encoder_layers(image_side, 4, (32, 32, 64, 64), 2 * sizes.component))
        self.component_prior = nn.Sequential(
            nn.Linear(sizes.mask, sizes.component_hidden),
            nn.ELU(),
            nn.Linear(sizes.component_hidden, sizes.component_hidden),
            nn.ELU(),
            nn.Linear(sizes.component_hidden, 2 * sizes.component),
        )
        if num_components > 1:
            self.component_decoder = ComponentDecoder(image_side, sizes.component)
        else:
            self.strong_component_decoder = picture_decoder(image_side, sizes.component, 3, (4, 4, 2, 4))

    def forward(self, image: Float[Tensor, "B 3 H W"], noise: Noise) -> Background:
        """The draws `mask_0`, `mask_1`, ... have the shape (B, D), `component` (B, K, D)."""
        mask_latents, mask_posterior = self._infer_masks(image, noise)
        masks = self._decode_masks(mask_latents)
        images = image[:, None].expand(-1, self.num_components, -1, -1, -1)
        inputs = torch.cat(((masks[:, :, None] + LEAST_MASK).log(), images), dim=2).flatten(0, 1)
        parameters = self.component_encoder(inputs).unflatten(0, masks.shape[:2])
        posterior = gaussian(parameters, LEAST_STD)
        latents = posterior.sample(noise("component", tuple(posterior.mean.shape)))
        components = self._decode_components(latents)
        kl = kl_divergence(mask_posterior, self._mask_prior(mask_latents))
        kl = kl + kl_divergence(posterior, gaussian(self.component_prior(mask_latents), LEAST_STD))
        log_joint = (masks[:, :, None] + LEAST_MASK).log() - ((image[:, None] - components) / self.std).square() / 2
        log_likelihood = log_joint.logsumexp(dim=1) - math.log(self.std) - math.log(2 * math.pi) / 2
        picture = (masks[:, :, None] * components).sum(dim=1)
        return Background(log_likelihood, picture, masks, components, kl.sum(dim=1))

    def _infer_masks(
        self, image: Float[Tensor, "B 3 H W"], noise: Noise
    ) -> tuple[Float[Tensor, "B K D"], DiagonalGaussian]:
        features = self.image_encoder(image).float()
        count = (len(image), -1)
        state = self.mask_hidden.expand(count), self.mask_cell.expand(count)
        latent = self.first_mask.expand(count)
        latents, posteriors = [], []
        with torch.autocast(image.device.type, enabled=False):
            for k in range(self.num_components):
                state = self.mask_lstm(torch.cat((latent, features), dim=1), state)
                posteriors.append(self.mask_posterior(state[0]))
                latent = gaussian(posteriors[-1], LEAST_STD).sample(noise(f"mask_{k}", tuple(latent.shape)))
                latents.append(latent)
        return torch.stack(latents, dim=1), gaussian(torch.stack(posteriors, dim=1), LEAST_STD)

    def _mask_prior(self, latents: Float[Tensor, "B K D"]) -> DiagonalGaussian:
        """Of each latent variable given those before."""
        count = (len(latents), -1)
        state = self.prior_hidden.expand(count), self.prior_cell.expand(count)
        hidden = [state[0]]
        with torch.autocast(latents.device.type, enabled=False):
            for k in range(self.num_components - 1):
                state = self.prior_lstm(latents[:, k], state)
                hidden.append(state[0])
            return gaussian(self.mask_prior(torch.stack(hidden, dim=1)), LEAST_STD)

    def _decode_masks(self, latents: Float[Tensor, "B K D"]) -> Float[Tensor, "B K H W"]:
        """Each takes its share of what those before leave over, the last one all of it."""
        shares = latents[:, :-1]
        rest = latents.new_ones(len(latents), self.image_side, self.image_side)
        masks = []
        if self.num_components > 1:
            decoded = self.mask_decoder(shares.flatten(0, 1)[:, :, None, None]).float().sigmoid()
            for share in decoded[:, 0].unflatten(0, shares.shape[:2]).unbind(dim=1):
                masks.append(share * rest)
                rest = rest * (1 - share)
        return torch.stack([*masks, rest], dim=1)

    def _decode_components(self, latents: Float[Tensor, "B K D"]) -> Float[Tensor, "B K 3 H W"]:
        """Colours in [0, 1]."""
        flat = latents.flatten(0, 1)
        if self.num_components > 1:
            decoded = self.component_decoder(flat)
        else:
            decoded = self.strong_component_decoder(flat[:, :, None, None]).float()
        return decoded.sigmoid().unflatten(0, latents.shape[:2])
