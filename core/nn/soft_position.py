"""Learned projection of a pixel's position (Locatello et al. 2020, C.1), as SAVi adds it to features."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.positions import position_grid

_ORDER = [1, 2, 0, 3]
"""Distances from the top, the left, the bottom, the right: original weights expect this order."""


class SoftPositionEmbed(nn.Module):
    """Adds a linear map of each pixel's distances from the four borders, for a `resolution` (h, w)."""

    def __init__(self, hidden_size: int, resolution: tuple[int, int]):
        super().__init__()
        self.dense = nn.Linear(4, hidden_size)
        self.register_buffer("grid", position_grid(*resolution)[None, ..., _ORDER], persistent=False)

    def codes(self) -> Float[Tensor, "H W C"]:
        """What is added; float32 under autocast, since neighbours differ by little."""
        with torch.autocast(self.grid.device.type, enabled=False):
            return self.dense(self.grid[0])

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return features + self.codes().permute(2, 0, 1)
