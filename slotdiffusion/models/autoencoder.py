"""Encoder and decoder of the VQ-VAE, those of VQ-GAN (Esser et al. 2021) and of latent diffusion (Rombach et al. 2022).

N frames; level i has `ch * ch_mult[i]` channels and 1 / 2^i of the pixels along a side.
Differs from the original code, with equal numbers: normalised maps are made again on the way back instead of kept, maps
are not enlarged for the convolutions that double them, and attention does not write its weights to memory.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.doubling import doubling_kernel
from core.nn.linear import linear
from slotdiffusion.models.norm_silu_conv import norm_silu, norm_silu_conv
from slotdiffusion.models.spatial_attention import spatial_attention

GROUPS = 32
EPSILON = 1e-6


def group_norm(channels: int) -> nn.GroupNorm:
    """Raises ValueError for a number of channels that does not divide into groups."""
    if channels % GROUPS:
        raise ValueError(f"ch, ch_mult: a level has {channels} channels; every one needs a multiple of {GROUPS}")
    return nn.GroupNorm(GROUPS, channels, EPSILON)


def pointwise(places: Float[Tensor, "*batch C"], convolution: nn.Conv2d) -> Float[Tensor, "*batch C2"]:
    """A 1x1 convolution of maps whose channels come last."""
    return linear(places, convolution.weight.flatten(1), convolution.bias)


def full_precision_output(
    features: Float[Tensor, "N C H W"], norm: nn.GroupNorm, convolution: nn.Conv2d
) -> Float[Tensor, "N C2 H W"]:
    """The last layers of encoder and decoder, not in autocast's precision: codes and pictures are finer than that."""
    with torch.autocast(features.device.type, enabled=False):
        return norm_silu_conv(features, norm, convolution)


class ResidualBlock(nn.Module):
    """Twice group norm, SiLU and convolution on a residual branch; `dropout` acts before the second convolution."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C2 H W"]:
        branch = norm_silu_conv(features, self.norm1, self.conv1)
        if self.dropout and self.training:
            branch = self.conv2(F.dropout(norm_silu(branch, self.norm2), self.dropout))
        else:
            branch = norm_silu_conv(branch, self.norm2, self.conv2)
        if hasattr(self, "nin_shortcut"):
            features = pointwise(features.permute(0, 2, 3, 1), self.nin_shortcut).permute(0, 3, 1, 2)
        return branch.add_(features)


class AttentionBlock(nn.Module):
    """Every place looks at every place, with one head, on a residual branch."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        with torch.autocast(features.device.type, enabled=False):
            normalised = self.norm(features.to(self.norm.weight.dtype))
        places = normalised.permute(0, 2, 3, 1).flatten(1, 2)
        found = spatial_attention(*(pointwise(places, layer) for layer in (self.q, self.k, self.v)))
        return features + pointwise(found, self.proj_out).transpose(1, 2).unflatten(2, features.shape[2:])


class Downsample(nn.Module):
    """Half the size by a convolution, with a row and a column of zeros at the bottom and the right alone."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w"]:
        return self.conv(F.pad(features, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size by nearest neighbours, and a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C H W"]:
        kernel = doubling_kernel(self.conv.weight)
        return F.conv_transpose2d(features, kernel, self.conv.bias, stride=2, padding=1)


class Level(nn.Module):
    """Residual blocks between `widths`, each with attention after it if the level `attends`."""

    def __init__(self, widths: Sequence[int], attends: bool, dropout: float):
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(before, after, dropout) for before, after in pairwise(widths))
        self.attn = nn.ModuleList(AttentionBlock(width) for width in widths[1:] if attends)

    def forward(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C2 H W"]:
        for index, block in enumerate(self.block):
            features = block(features)
            if self.attn:
                features = self.attn[index](features)
        return features


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, dropout)
        self.attn_1 = AttentionBlock(channels)
        self.block_2 = ResidualBlock(channels, channels, dropout)

    def forward(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        return self.block_2(self.attn_1(self.block_1(features)))


class Encoder(nn.Module):
    """Pictures in [-1, 1] to `z_channels` maps of 1 / 2^(levels - 1) of their size.

    Levels whose size, were the pictures of `resolution`, is in `attn_resolutions` attend after every block.
    """

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        z_channels: int,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Collection[int],
        dropout: float,
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        before = ch
        for index, factor in enumerate(ch_mult):
            width, is_last = ch * factor, index == len(ch_mult) - 1
            level = Level([before] + [width] * num_res_blocks, resolution // 2**index in attn_resolutions, dropout)
            level.downsample = nn.Identity() if is_last else Downsample(width)
            self.down.append(level)
            before = width
        self.mid = Middle(before, dropout)
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, z_channels, 3, padding=1)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N Z h w"]:
        features = self.conv_in(images.contiguous(memory_format=torch.channels_last))
        for level in self.down:
            features = level.downsample(level(features))
        return full_precision_output(self.mid(features), self.norm_out, self.conv_out)


class Decoder(nn.Module):
    """The way back, with one more block on every level; no nonlinearity after the last convolution.

    `up` is indexed by level and so is passed from its end.
    """

    def __init__(
        self,
        resolution: int,
        out_ch: int,
        z_channels: int,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Collection[int],
        dropout: float,
    ):
        super().__init__()
        widths = [ch * factor for factor in ch_mult]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], dropout)
        self.up = nn.ModuleList()
        for index, (width, before) in enumerate(zip(widths, [*widths[1:], widths[-1]])):
            blocks = [before] + [width] * (num_res_blocks + 1)
            level = Level(blocks, resolution // 2**index in attn_resolutions, dropout)
            level.upsample = Upsample(width) if index else nn.Identity()
            self.up.append(level)
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_ch, 3, padding=1)

    def forward(self, latents: Float[Tensor, "N Z h w"]) -> Float[Tensor, "N C H W"]:
        features = self.mid(self.conv_in(latents.contiguous(memory_format=torch.channels_last)))
        for level in reversed(self.up):
            features = level.upsample(level(features))
        return full_precision_output(features, self.norm_out, self.conv_out)
