"""Colours of segmentations and the ground behind pictures, as stelzner/osrt draws them."""

import colorsys

import numpy as np
from jaxtyping import Float, Float64, Integer, UInt8

SATURATION, VALUE = 0.45, 0.8
LIGHT, DARK = 0.85, 0.5


def palette(num_colours: int) -> Float64[np.ndarray, "{num_colours}+1 3"]:
    """RGB in [0, 1] of labels 0 to `num_colours`: black, then hues evenly spaced from red."""
    hues = [colorsys.hsv_to_rgb(number / num_colours, SATURATION, VALUE) for number in range(num_colours)]
    return np.array([(0.0, 0.0, 0.0), *hues])


def segmentation_picture(
    labels: Integer[np.ndarray, "*B H W"], num_colours: int | None = None
) -> Float64[np.ndarray, "*B H W 3"]:
    """Every label in its colour of a palette with `num_colours`; as many as the largest label unless given."""
    return palette(int(labels.max()) if num_colours is None else num_colours)[labels]


def checkerboard(height: int, width: int, cell: int = 2) -> Float64[np.ndarray, "{height} {width} 3"]:
    """Squares of `cell` pixels in two greys, the one in the left upper corner light."""
    row, column = np.indices((height, width)) // cell
    return np.where((row + column) % 2 == 0, LIGHT, DARK)[..., None].repeat(3, axis=-1)


def truncated_bytes(picture: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Values in [0, 1] as bytes, rounded down as the original does when it writes pictures."""
    return (picture * 255).astype(np.uint8)
