"""The image encoder that EfficientMORL and its Slot Attention baseline share."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.positions import position_grid


class PixelEncoder(nn.Module):
    """Four 5x5 convolutions, a learned projection of the position, and a two-layer MLP per pixel.

    (Locatello et al. 2020, C.1; here with a ReLU after each of the four convolutions, as in the EfficientMORL release.)
    """

    def __init__(self, image_size: tuple[int, int], width: int = 64):
        super().__init__()
        convolutions = []
        for channels in (3, width, width, width):
            convolutions += [nn.Conv2d(channels, width, 5, padding=2), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*convolutions)
        self.position = nn.Linear(4, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.register_buffer("grid", position_grid(*image_size).flatten(0, 1), persistent=False)

    def forward(self, image: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N P C"]:
        """Features of all P = H * W pixels, row by row; `image` lies in [-1, 1]."""
        features = self.convolutions(image.contiguous(memory_format=torch.channels_last))
        features = features.permute(0, 2, 3, 1).flatten(1, 2)
        return self.mlp(features + self.position(self.grid))
