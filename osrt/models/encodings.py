"""How points and rays enter a network (Sajjadi et al. 2022, Scene Representation Transformer)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PositionalEncoding(nn.Module):
    """Sines and cosines of coordinates at `num_octaves` frequencies 2^o pi, from o = `start_octave` on.

    All sines come first, those of one coordinate together. The frequencies are float32 before they meet a coordinate:
    at octave 14 another order of the products changes a channel by 5e-3.
    """

    def __init__(self, num_octaves: int = 8, start_octave: int = 0):
        super().__init__()
        self.out_features = 6 * num_octaves
        octaves = range(start_octave, start_octave + num_octaves)
        frequencies = torch.tensor([2.0**octave * math.pi for octave in octaves], dtype=torch.float32)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, coordinates: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch _"]:
        angles = (coordinates.float()[..., None] * self.frequencies).flatten(-2)
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class RayEncoder(nn.Module):
    """Encodings of where a ray begins and of its direction, in this order."""

    def __init__(
        self, pos_octaves: int = 15, pos_start_octave: int = 0, ray_octaves: int = 15, ray_start_octave: int = 0
    ):
        super().__init__()
        self.pos_encoding = PositionalEncoding(pos_octaves, pos_start_octave)
        self.ray_encoding = PositionalEncoding(ray_octaves, ray_start_octave)
        self.out_features = self.pos_encoding.out_features + self.ray_encoding.out_features

    def forward(
        self, camera_pos: Float[Tensor, "*batch 3"], rays: Float[Tensor, "*batch 3"]
    ) -> Float[Tensor, "*batch _"]:
        return torch.cat((self.pos_encoding(camera_pos), self.ray_encoding(rays)), dim=-1)
