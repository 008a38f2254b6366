"""Layers of GNM and SPACE: a convolution or a linear map, CELU, then a normalisation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn


class Layer(NamedTuple):
    """A convolution with `groups` of the normalisation after it.

    `scale` is the stride, where 0 stands for a convolution without padding, or how many times a sub-pixel layer
    enlarges.
    """

    channels: int
    kernel: int = 1
    scale: int = 1
    groups: int = 1


def convolution(inputs: int, layer: Layer) -> list[nn.Module]:
    padding = (layer.kernel - 1) // 2 if layer.scale else 0
    return [
        nn.Conv2d(inputs, layer.channels, layer.kernel, stride=max(layer.scale, 1), padding=padding),
        nn.CELU(inplace=True),
        nn.GroupNorm(layer.groups, layer.channels),
    ]


def subpixel(inputs: int, layer: Layer) -> list[nn.Module]:
    """Enlarged by channels that become neighbouring pixels (Shi et al. 2016)."""
    padding = (layer.kernel - 1) // 2
    shuffle = [nn.PixelShuffle(layer.scale)] if layer.scale > 1 else []
    return [
        nn.Conv2d(inputs, layer.channels * layer.scale**2, layer.kernel, padding=padding),
        *shuffle,
        nn.CELU(inplace=True),
        nn.GroupNorm(layer.groups, layer.channels),
    ]


def stack(
    make: Callable[[int, Layer], list[nn.Module]], inputs: int, layers: Sequence[Layer], plain_end: bool = False
) -> nn.Sequential:
    """Layers that `make` makes one after the other; with `plain_end` the last has neither CELU nor normalisation."""
    modules: list[nn.Module] = []
    for layer in layers:
        modules += make(inputs, layer)
        inputs = layer.channels
    return nn.Sequential(*(modules[:-2] if plain_end else modules))


def mlp(inputs: int, widths: Sequence[int], plain_end: bool = True) -> nn.Sequential:
    """Linear layers, each but a plain end with CELU and layer normalisation."""
    modules: list[nn.Module] = []
    for width in widths:
        modules += [nn.Linear(inputs, width), nn.CELU(inplace=True), nn.LayerNorm(width)]
        inputs = width
    return nn.Sequential(*(modules[:-2] if plain_end else modules))
