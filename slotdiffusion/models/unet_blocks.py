"""Layers of the UNet of latent diffusion (Rombach et al. 2022), under the names of its published weights.

Shapes: B images, C channels, H W rows and columns, N slots of size S, L = H W tokens, h heads of E = C / h.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.doubling import doubling_kernel
from slotdiffusion.models.product_layers import Conv2d, Linear

GROUPS = 32
PIXELS_PER_CHANNEL = 2
"""From which on it pays to combine the weights that meet equal pixels of an enlarged map."""


class KeysValues(NamedTuple):
    """What the slots offer one cross-attention; the same at every step of a sampler."""

    keys: Float[Tensor, "B h N E"]
    values: Float[Tensor, "B h N E"]


def zeroed(convolution: nn.Conv2d) -> nn.Conv2d:
    """With all weights zero, so that it adds nothing at first."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution


class GroupNorm(nn.GroupNorm):
    """Group norm of 32 groups, with float32 statistics under autocast."""

    def __init__(self, channels: int, eps: float = 1e-5):
        if channels % GROUPS:
            raise ValueError(
                f"model_channels, channel_mult: a level has {channels} channels; each needs a multiple of {GROUPS}"
            )
        super().__init__(GROUPS, channels, eps)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.to(self.weight.dtype)).to(features.dtype)


class ResBlock(nn.Module):
    """Two convolutions on a residual branch, with the embedded time added in between; the second begins at zero."""

    def __init__(self, in_channels: int, channels: int, emb_channels: int, dropout: float):
        super().__init__()
        self.in_layers = nn.Sequential(GroupNorm(in_channels), nn.SiLU(), Conv2d(in_channels, channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(emb_channels, channels))
        last = zeroed(Conv2d(channels, channels, 3, padding=1))
        self.out_layers = nn.Sequential(GroupNorm(channels), nn.SiLU(), nn.Dropout(dropout), last)
        self.skip_connection = nn.Identity() if in_channels == channels else Conv2d(in_channels, channels, 1)

    def forward(
        self, features: Float[Tensor, "B C H W"], embedding: Float[Tensor, "#B M"]
    ) -> Float[Tensor, "B C2 H W"]:
        hidden = self.in_layers(features) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(features) + self.out_layers(hidden)


class Attention(nn.Module):
    """Multi-head attention of tokens to a context: themselves, or slots."""

    def __init__(self, width: int, context_dim: int, head_width: int):
        super().__init__()
        self.head_width = head_width
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(context_dim, width, bias=False)
        self.to_v = Linear(context_dim, width, bias=False)
        self.to_out = nn.Sequential(Linear(width, width))

    def forward(self, tokens: Float[Tensor, "B L C"], seen: KeysValues) -> Float[Tensor, "B L C"]:
        found = F.scaled_dot_product_attention(self._heads(self.to_q(tokens)), *seen)
        return self.to_out(found.transpose(1, 2).flatten(2))

    def project(self, context: Float[Tensor, "B N S"]) -> KeysValues:
        return KeysValues(self._heads(self.to_k(context)), self._heads(self.to_v(context)))

    def _heads(self, tokens: Float[Tensor, "B L C"]) -> Float[Tensor, "B h L E"]:
        return tokens.unflatten(-1, (-1, self.head_width)).transpose(1, 2)


class GEGLU(nn.Module):
    """A linear layer gated by GELU of another (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.proj = Linear(width, 2 * hidden)

    def forward(self, tokens: Float[Tensor, "B L C"]) -> Float[Tensor, "B L D"]:
        values, gates = self.proj(tokens).chunk(2, dim=-1)
        return values * F.gelu(gates)


class FeedForward(nn.Module):
    """Four times as wide inside. Between its layers the original has a dropout of 0, which counts in their names."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), Linear(4 * width, width))

    def forward(self, tokens: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        return self.net(tokens)


class TransformerBlock(nn.Module):
    """Attention to all tokens, attention to the slots, feed-forward net, each after a layer norm and residual.

    Without slots (`context_dim` None) the second attention is to all tokens, too.
    """

    def __init__(self, width: int, head_width: int, context_dim: int | None):
        super().__init__()
        self.attn1 = Attention(width, width, head_width)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context_dim or width, head_width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, tokens: Float[Tensor, "B L C"], slots: KeysValues | None) -> Float[Tensor, "B L C"]:
        normed = self.norm1(tokens)
        tokens = tokens + self.attn1(normed, self.attn1.project(normed))
        normed = self.norm2(tokens)
        tokens = tokens + self.attn2(normed, slots or self.attn2.project(normed))
        return tokens + self.ff(self.norm3(tokens))


class SpatialTransformer(nn.Module):
    """`depth` transformer blocks over all pixels of a map, on a residual branch whose last layer begins at zero."""

    def __init__(self, channels: int, head_width: int, depth: int, context_dim: int | None):
        super().__init__()
        if channels % head_width:
            raise ValueError(f"num_head_channels={head_width} does not divide the {channels} channels of a level")
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = Conv2d(channels, channels, 1)
        blocks = (TransformerBlock(channels, head_width, context_dim) for _ in range(depth))
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out = zeroed(Conv2d(channels, channels, 1))

    def forward(self, features: Float[Tensor, "B C H W"], slots: list[KeysValues]) -> Float[Tensor, "B C H W"]:
        """`slots` is what `project` gives; empty if there are none."""
        tokens = self.proj_in(self.norm(features)).permute(0, 2, 3, 1).flatten(1, 2)
        for number, block in enumerate(self.transformer_blocks):
            tokens = block(tokens, slots[number] if slots else None)
        maps = tokens.unflatten(1, features.shape[2:]).permute(0, 3, 1, 2)
        return features + self.proj_out(maps)

    def project(self, context: Float[Tensor, "B N S"]) -> list[KeysValues]:
        """Keys and values of the slots for every block."""
        return [block.attn2.project(context) for block in self.transformer_blocks]


class Downsample(nn.Module):
    """Half the size by a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        return self.op(features)


class Upsample(nn.Module):
    """Twice the size by nearest neighbours, and a convolution; large maps are not enlarged for it."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
        if features.numel() < PIXELS_PER_CHANNEL * features.shape[1] ** 2:
            return self.conv(F.interpolate(features, scale_factor=2.0, mode="nearest"))
        kernel = doubling_kernel(self.conv.weight)
        return F.conv_transpose2d(features, kernel, self.conv.bias, stride=2, padding=1)
