"""What SPAIR sees an image with: convolutions that end in a vector of features per cell."""

from collections import OrderedDict

from torch import nn

from clevrtex.models.celu_layers import Layer, convolution, stack

FEATURES = 100
LARGE_CELL, SMALL_CELL = 32, 12
"""Sides of a cell in pixels."""


def large_backbone(channels: int = 3, halvings: int = 5) -> nn.Sequential:
    """Cells of 2 ** `halvings` pixels, 16 or 32."""
    layers = [Layer(16, 3, 2, 4), Layer(32, 3, 2, 8), Layer(64, 3, 2, 8), Layer(128, 3, 2, 16)]
    layers += [Layer(256, 3, 2 if halvings == 5 else 1, 32), Layer(FEATURES, 1, 1, 10)]
    return stack(convolution, channels, layers)


def small_backbone(channels: int = 3) -> nn.Sequential:
    """Cells of 12 pixels; the padding is to the right and below."""
    layers: dict[str, nn.Module] = {}
    padded = ((4, 3, 1), (4, 2, 2), (4, 2, 2))
    for number, (kernel, stride, padding) in enumerate((*padded, *[(1, 1, 0)] * 3)):
        width = FEATURES if number == 5 else 128
        layers[f"pad{number}"] = nn.ZeroPad2d((0, padding, 0, padding))
        layers[f"conv{number}"] = nn.Conv2d(channels, width, kernel, stride)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        channels = width
    return nn.Sequential(OrderedDict(layers))
