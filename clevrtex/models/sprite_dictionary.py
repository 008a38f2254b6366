"""MarioNette's dictionary of sprites (Smirnov et al. 2021): learned codes, and a network that draws them.

Shapes: C entries, D code size, pictures of c channels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.partial_convolution import NUM_GROUPS


class SpriteDictionary(nn.Module):
    """`num_entries` pictures of `shape` (channels, height, width) in [0, 1], each drawn from a code."""

    def __init__(self, num_entries: int, shape: tuple[int, int, int], code_size: int):
        super().__init__()
        self.shape = shape
        channels, height, width = shape
        self.latent = nn.Parameter(torch.randn(num_entries, code_size))
        self.decode = nn.Sequential(
            nn.Linear(code_size, 8 * code_size),
            nn.GroupNorm(NUM_GROUPS, 8 * code_size),
            nn.ReLU(),
            nn.Linear(8 * code_size, channels * height * width),
        )

    def forward(self) -> tuple[Float[Tensor, "C c h w"], Float[Tensor, "C D"]]:
        """The pictures, and their codes of mean 0 and variance 1."""
        codes = F.layer_norm(self.latent, self.latent.shape[-1:])
        return self.decode(codes).float().sigmoid().unflatten(1, self.shape), codes


def choose(code: Float[Tensor, "*B D"], codes: Float[Tensor, "C D"]) -> Float[Tensor, "*B C"]:
    """Soft choice of an entry for a code, which is normalised first: softmax over C of scaled products."""
    with torch.autocast(code.device.type, enabled=False):
        normalised = F.layer_norm(code.float(), code.shape[-1:])
        return (normalised @ codes.t() * code.shape[-1] ** -0.5).softmax(dim=-1)


def mix(weights: Float[Tensor, "N C"], pictures: Float[Tensor, "C c h w"]) -> Float[Tensor, "N c h w"]:
    """Sums of pictures with the weights given, as one matrix product."""
    with torch.autocast(weights.device.type, enabled=False):
        return (weights @ pictures.flatten(1)).unflatten(1, pictures.shape[1:])
