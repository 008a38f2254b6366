"""Backgrounds and objects painted over, as the colour flags of a data string ask for (bbg, rbg, rso, rdo)."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

Background = Literal["black", "random"]
Objects = Literal["one", "individual"]

COLOURS_OF_OBJECTS = {"one": 1, "individual": 20}
SEED = 3730728833043713873
"""The original's: sample i has the same colours in every run, whatever the size of its set."""


def num_colours(background: Background | None, objects: Objects | None) -> int:
    """How many random colours each picture needs."""
    return (background == "random") + COLOURS_OF_OBJECTS.get(objects, 0)


def colour_table(num_samples: int, num_colours: int) -> Float32[np.ndarray, "n N 4 1 1"]:
    """Colours in [0, 1) of every sample of a set; pictures use the first three of four channels."""
    generator = np.random.Generator(np.random.SFC64(SEED))
    return generator.random((num_samples, num_colours, 4, 1, 1)).astype(np.float32)


def recolour(
    image: Float[Tensor, "B 3 H W"],
    mask: UInt8[Tensor, "B H W"],
    colours: Float[Tensor, "B N 3 1 1"] | None,
    background: Background | None,
    objects: Objects | None,
) -> Float[Tensor, "B 3 H W"]:
    """`image` with a black background or one of the first colour, and objects of the next colour or of one each.

    `mask` holds object indices, 0 = background; objects past the last colour begin again with the first.
    `colours` may be None if nothing is random.
    """
    is_background = (mask == 0)[:, None]
    if background == "black":
        image = image.masked_fill(is_background, 0.0)
    elif background == "random":
        image = torch.where(is_background, colours[:, 0], image)
    if objects is None:
        return image
    palette = colours[:, 1 if background == "random" else 0 :]
    if objects == "one":
        return torch.where(is_background, image, palette[:, 0])
    index = (mask.flatten(1).long() - 1) % palette.shape[1]
    painted = torch.take_along_dim(palette[..., 0, 0], index[..., None], dim=1)
    return torch.where(is_background, image, painted.mT.unflatten(2, mask.shape[1:]))
