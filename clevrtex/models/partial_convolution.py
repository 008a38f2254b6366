"""Encoders of partial convolutions (Liu et al. 2018) without holes: what zero padding takes away is compensated."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.slot_chunks import split_slots

NUM_GROUPS = 8
KERNEL = 3


def coverage_ratio(size: int, stride: int) -> Float[Tensor, "1 1 h w"]:
    """Taps of a padded 3x3 convolution over those that lie in the map: 1 inside, 9/6 at edges, 9/4 in corners."""
    inside = F.conv2d(torch.ones(1, 1, size, size), torch.ones(1, 1, KERNEL, KERNEL), stride=stride, padding=1)
    return KERNEL**2 / inside


class PartialConv2d(nn.Conv2d):
    """A padded 3x3 convolution of maps of side `size`, scaled by the share of its taps that lie in the map.

    That is a partial convolution (Liu et al. 2018, equation 1) whose mask is one everywhere, and then stays so.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1):
        super().__init__(in_channels, out_channels, KERNEL, stride=stride, padding=1)
        self.register_buffer("ratio", coverage_ratio(size, stride), persistent=False)

    def forward(self, maps: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        linear = F.conv2d(maps, self.weight, stride=self.stride, padding=self.padding)
        return torch.addcmul(self.bias[:, None, None].to(linear.dtype), linear, self.ratio.to(linear.dtype))


class DownBlock(nn.Module):
    """Two partial convolutions, the second of which halves the map, each with group norm and leaky ReLU."""

    def __init__(self, in_channels: int, channels: int, size: int):
        super().__init__()
        self.conv1 = PartialConv2d(in_channels, channels, size)
        self.norm1 = nn.GroupNorm(NUM_GROUPS, channels)
        self.conv2 = PartialConv2d(channels, channels, size, stride=2)
        self.norm2 = nn.GroupNorm(NUM_GROUPS, channels)
        self.floats_per_picture = channels * size**2

    def forward(self, maps: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        maps = F.leaky_relu(self.norm1(self.conv1(maps)), inplace=True)
        return F.leaky_relu(self.norm2(self.conv2(maps)), inplace=True)


class Encoder(nn.Module):
    """Square pictures of side `size`, halved until their side is `grid_size`; then one code per cell and head.

    `size` is a power of two times `grid_size`, `code_size` a multiple of 8.
    """

    def __init__(self, in_channels: int, size: int, grid_size: int, code_size: int, num_heads: int = 1):
        super().__init__()
        self.blocks = nn.ModuleList()
        while size > grid_size:
            self.blocks.append(DownBlock(in_channels, code_size, size))
            in_channels, size = code_size, size // 2
        self.heads = nn.ModuleList(PartialConv2d(code_size, code_size, grid_size) for _ in range(num_heads))

    def forward(self, pictures: Float[Tensor, "N C S S"]) -> Float[Tensor, "N L G G D"]:
        """Codes of the L heads, each of mean 0 and variance 1 over D."""
        maps = pictures.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            maps = torch.cat([block(few) for few in split_slots(maps, block.floats_per_picture)])
        codes = torch.stack([head(maps) for head in self.heads], dim=1).permute(0, 1, 3, 4, 2).float()
        return F.layer_norm(codes, codes.shape[-1:])
