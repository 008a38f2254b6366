"""IODINE's spatial broadcast decoder (Watters et al. 2019), with its first layer evaluated once per slot."""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.nn.slot_chunks import split_slots


def coordinate_grid(height: int, width: int) -> Float[Tensor, "2 H W"]:
    """Row and column coordinate of every pixel, linear from -1 to 1, ends included."""
    return torch.stack(torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"))


class BroadcastDecoder(nn.Module):
    """A slot and two coordinates at every pixel, through four unpadded 3x3 convolutions with ELU and a 1x1 convolution.

    The slot is the same at every pixel. So the first convolution is a vector, the sum of its kernel times the slot,
    plus one map for all slots, its answer to the coordinates.
    """

    def __init__(self, image_size: tuple[int, int], slot_size: int, channels: int):
        super().__init__()
        layers = []
        for inputs in (slot_size + 2, channels, channels, channels):
            layers += [nn.Conv2d(inputs, channels, 3), nn.ELU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 4, 1))
        grid = coordinate_grid(image_size[0] + 8, image_size[1] + 8)
        self.register_buffer("grid", grid.flip(0), persistent=False)  # The decoder has columns before rows.
        self.floats_per_slot = channels * grid[0].numel()

    def forward(self, slots: Float[Tensor, "S D"], checkpointing: bool = False) -> Float[Tensor, "S 4 H W"]:
        """Logits of RGB and of the mask. With `checkpointing` the backward pass computes the layers again."""
        first = self.layers[0]
        of_slot, of_grid = first.weight.split((slots.shape[1], 2), dim=1)
        vectors = slots @ of_slot.sum(dim=(2, 3)).t()
        shared = F.conv2d(self.grid[None], of_grid, first.bias).contiguous(memory_format=torch.channels_last)
        decode = self._remaining_layers
        if checkpointing:
            decode = partial(checkpoint, decode, use_reentrant=False, preserve_rng_state=False)
        vectors = vectors[:, :, None, None]
        return torch.cat([decode(few, shared) for few in split_slots(vectors, self.floats_per_slot)])

    def _remaining_layers(self, vectors: Float[Tensor, "S C 1 1"], shared: Float[Tensor, "1 C H W"]) -> Tensor:
        return self.layers[1:](vectors + shared).float().contiguous()
