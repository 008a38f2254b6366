"""The denoising UNet of latent diffusion (Rombach et al. 2022), which in SlotDiffusion (Wu et al. 2023) sees slots.

Shapes: B images, C channels of latents of H x W, N slots of size S.
Differs from the original code, with equal numbers: keys and values of slots can be made once for many steps, attention
does not write its weights to memory, and small maps are convolved by matrix products.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from slotdiffusion.models.product_layers import Conv2d, Linear
from slotdiffusion.models.unet_blocks import (
    Downsample,
    GroupNorm,
    KeysValues,
    ResBlock,
    SpatialTransformer,
    Upsample,
    zeroed,
)

Times = Float[Tensor, "#B"] | Integer[Tensor, "#B"]
SlotKeys = list[list[KeysValues]]
"""Of every entry of a UNet, for every block of its transformer."""


def time_embedding(times: Times, width: int) -> Float[Tensor, "#B {width}"]:
    """Cosines, then sines, of `times` at `width` // 2 frequencies that fall from 1 towards 1 / 10000.

    Times may be fractions. An odd `width` ends in a zero.
    """
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=times.device) / half
    angles = times.float()[:, None] * (-math.log(10000) * exponents).exp()
    return F.pad(torch.cat((angles.cos(), angles.sin()), dim=1), (0, width % 2))


class Entry(nn.Sequential):
    """Layers between two skips; at most one is a transformer."""

    def forward(
        self, features: Float[Tensor, "B C H W"], embedding: Float[Tensor, "#B M"], slots: list[KeysValues]
    ) -> Float[Tensor, "B C2 H2 W2"]:
        for layer in self:
            if isinstance(layer, ResBlock):
                features = layer(features, embedding)
            elif isinstance(layer, SpatialTransformer):
                features = layer(features, slots)
            else:
                features = layer(features)
        return features

    def project(self, context: Float[Tensor, "B N S"]) -> list[KeysValues]:
        """Keys and values of the slots for its transformer."""
        return [pair for layer in self if isinstance(layer, SpatialTransformer) for pair in layer.project(context)]


class UNet(nn.Module):
    """Predicts noise (or what else it is trained for) from noisy latents, their time, and slots.

    Level i has `model_channels * channel_mult[i]` channels and 1 / 2^i of the size, 1 / `factor` on the last; it has
    transformers if 2^i is among `attention_resolutions`, and the middle always has one. Without `context_dim` it sees
    no slots. With `use_checkpoint` the activations inside entries are made again on the way back instead of kept.
    Raises ValueError for widths that do not divide into groups or heads, and for a first level that is not as wide as
    the layers around it.
    """

    def __init__(
        self,
        in_channels: int = 3,
        model_channels: int = 128,
        out_channels: int = 3,
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (8, 4, 2),
        dropout: float = 0.1,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        num_head_channels: int = 32,
        transformer_depth: int = 1,
        context_dim: int | None = 192,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        if channel_mult[0] != 1:
            raise ValueError(f"channel_mult={tuple(channel_mult)} must begin with 1: model_channels go in and out")
        self.factor = 2 ** (len(channel_mult) - 1)
        self.model_channels = model_channels
        self.out_channels = out_channels
        self.context_dim = context_dim
        self.use_checkpoint = use_checkpoint
        emb_channels = 4 * model_channels

        def transformer(channels: int) -> SpatialTransformer:
            return SpatialTransformer(channels, num_head_channels, transformer_depth, context_dim)

        def block(before: int, channels: int) -> ResBlock:
            return ResBlock(before, channels, emb_channels, dropout)

        def attending(level: int, channels: int) -> list[nn.Module]:
            return [transformer(channels)] if 2**level in attention_resolutions else []

        layers = (Linear(model_channels, emb_channels), nn.SiLU(), Linear(emb_channels, emb_channels))
        self.time_embed = nn.Sequential(*layers)
        self.input_blocks = nn.ModuleList([Entry(Conv2d(in_channels, model_channels, 3, padding=1))])
        widths = [model_channels * factor for factor in channel_mult]
        channels, skips = model_channels, [model_channels]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Entry(block(channels, width), *attending(level, width)))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(Entry(Downsample(channels)))
                skips.append(channels)
        self.middle_block = Entry(block(channels, channels), transformer(channels), block(channels, channels))
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for index in range(num_res_blocks + 1):
                larger = [Upsample(width)] if level and index == num_res_blocks else []
                entry = Entry(block(channels + skips.pop(), width), *attending(level, width), *larger)
                self.output_blocks.append(entry)
                channels = width
        self.out = nn.Sequential(GroupNorm(channels), nn.SiLU(), zeroed(Conv2d(channels, out_channels, 3, padding=1)))
        self.to(memory_format=torch.channels_last)

    def forward(
        self, latents: Float[Tensor, "B C H W"], times: Times, slots: SlotKeys | None = None
    ) -> Float[Tensor, "B C2 H W"]:
        """The prediction; `times` are those of the images or one for all, `slots` what `project` made of them."""
        embedding = self.time_embed(time_embedding(times, self.model_channels))
        entries = [*self.input_blocks, self.middle_block, *self.output_blocks]
        features, skips = latents.contiguous(memory_format=torch.channels_last), []
        for number, entry in enumerate(entries):
            if number > len(self.input_blocks):
                features = torch.cat((features, skips.pop()), dim=1)
            seen = slots[number] if slots else []
            if self.use_checkpoint and torch.is_grad_enabled():
                features = checkpoint(entry, features, embedding, seen, use_reentrant=False)
            else:
                features = entry(features, embedding, seen)
            if number < len(self.input_blocks):
                skips.append(features)
        return self.out(features)

    def project(self, context: Float[Tensor, "B N S"]) -> SlotKeys:
        """Keys and values of the slots for every cross-attention."""
        return [entry.project(context) for entry in (*self.input_blocks, self.middle_block, *self.output_blocks)]
