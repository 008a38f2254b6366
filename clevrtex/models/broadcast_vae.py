"""A small VAE: strided convolutions to a latent vector, and a spatial broadcast decoder (Watters et al. 2019)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.iodine_decoder import coordinate_grid
from clevrtex.models.latents import gaussian
from core.nn.slot_chunks import split_slots
from emorl.models.gaussian import DiagonalGaussian

CHANNELS = 32


class ConvEncoder(nn.Module):
    """Four halving convolutions, their mean over the image, two linear layers."""

    def __init__(self, channels: int, latent_size: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in ((channels, 32), (32, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 128), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(128, 2 * latent_size))

    def forward(self, image: Float[Tensor, "B C H W"]) -> DiagonalGaussian:
        return gaussian(self.layers(image))


class BroadcastDecoder(nn.Module):
    """Pictures of `size` (h, w): unpadded convolutions over the latent vector, tiled, and two coordinates.

    Over the latent vector, which is the same everywhere, the first convolution is a product with the sum of its kernel.
    """

    def __init__(self, size: tuple[int, int], latent_size: int, channels: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before in (latent_size + 2, CHANNELS, CHANNELS, CHANNELS):
            layers += [nn.Conv2d(before, CHANNELS, 3), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(CHANNELS, channels, 1))
        self.register_buffer("grid", coordinate_grid(size[0] + 8, size[1] + 8), persistent=False)
        self.floats_per_latent = CHANNELS * self.grid[0].numel()

    def forward(self, latents: Float[Tensor, "N D"]) -> Float[Tensor, "N C h w"]:
        """Values in [0, 1]."""
        first, rest = self.layers[0], self.layers[1:]
        of_latent, of_grid = first.weight.split((latents.shape[1], 2), dim=1)
        vectors = (latents @ of_latent.sum(dim=(2, 3)).t())[:, :, None, None]
        shared = F.conv2d(self.grid[None], of_grid, first.bias).contiguous(memory_format=torch.channels_last)
        pieces = split_slots(vectors, self.floats_per_latent)
        return torch.cat([rest(few + shared).float().contiguous() for few in pieces]).sigmoid()
