"""Multi-dSprites: flat squares, ellipses and hearts that occlude each other (Kabra et al. 2019, Multi-Object Datasets).

Counts, colours and placement follow what is public about the set. The outlines of the three sprites are not published
as formulas: theirs here are chosen so that every turned sprite fits its 24x24 canvas and all three cover similar areas.
"""

import colorsys
import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

SIDE = 64
CANVAS = 24
TRAVEL = SIDE - CANVAS
FACTOR_NAMES = ("x", "y", "shape", "colour_r", "colour_g", "colour_b", "visibility", "orientation", "scale")
SHAPE_NAMES = {1: "square", 2: "ellipse", 3: "heart"}
SCALES = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], np.float32)
ORIENTATIONS = (2 * math.pi / 40 * np.arange(40)).astype(np.float32)

# Sizes in pixels at scale 1.
_SQUARE_HALF_SIDE = 8.0
_ELLIPSE_HALF_AXES = (12.0, 6.0)
_HEART_UNIT = 8.5  # the heart spans 2.28 x 2.24 units
_HEART_CENTRE = 0.24  # height, in units, of the point that stays farthest inside when the heart turns


@dataclass(frozen=True)
class Variant:
    """Number of sprites, uniform in `fewest`..`most`, and picture channels of one published variant."""

    fewest: int
    most: int
    channels: int


VARIANTS = {
    "binarized": Variant(fewest=2, most=3, channels=1),
    "colored_on_grayscale": Variant(fewest=2, most=5, channels=3),
    "colored_on_colored": Variant(fewest=1, most=4, channels=3),
}


def sample_factors(rng: np.random.Generator, variant: str) -> Float32[np.ndarray, "E 9"]:
    """Draw a scene of one of `VARIANTS`: number of sprites and all their factors independent and uniform.

    Row 0 is the background (its colour and visibility 1, else 0), rows 1.. the sprites from back to front, then rows of
    zeros up to E = 1 + the largest number of sprites. Columns are `FACTOR_NAMES`. x, y in [0,1): the sprite's canvas
    has its top-left pixel at column floor(40x), row floor(40y); shape 1..3 (`SHAPE_NAMES`); colour RGB in 0..1;
    visibility 1 for sprites of the scene, hidden ones too; orientation in radians, anticlockwise; scale 0.5..1.
    Colours: binarized, white on black; colored_on_grayscale, hue in [0,1), saturation and value in [0.5,1) on a grey
    level in [0,1); colored_on_colored, RGB in [0,1)^3, background too. ValueError for an unknown variant.
    """
    fewest, most = _variant(variant).fewest, _variant(variant).most
    count = int(rng.integers(fewest, most + 1))
    factors = np.zeros((1 + most, len(FACTOR_NAMES)), np.float32)
    sprites = factors[1 : 1 + count]
    sprites[:, 0:2] = rng.random((count, 2), dtype=np.float32)
    sprites[:, 2] = rng.integers(1, 1 + len(SHAPE_NAMES), size=count)
    sprites[:, 7] = ORIENTATIONS[rng.integers(len(ORIENTATIONS), size=count)]
    sprites[:, 8] = SCALES[rng.integers(len(SCALES), size=count)]
    factors[: 1 + count, 6] = 1
    if variant == "binarized":
        sprites[:, 3:6] = 1
    elif variant == "colored_on_grayscale":
        factors[0, 3:6] = rng.random(dtype=np.float32)
        hsv = rng.uniform((0, 0.5, 0.5), 1, size=(count, 3))
        sprites[:, 3:6] = [colorsys.hsv_to_rgb(*colour) for colour in hsv.tolist()]
    else:
        factors[: 1 + count, 3:6] = rng.random((1 + count, 3), dtype=np.float32)
    return factors


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, found {name!r}")
    return VARIANTS[name]


@functools.lru_cache(maxsize=1024)
def sprite(shape: int, orientation: float, scale: float) -> Bool[np.ndarray, "24 24"]:
    """Pixels whose centres lie in the turned, scaled sprite, centred on its canvas; orientation 0 is upright.

    ValueError for a shape other than 1, 2, 3.
    """
    if shape not in SHAPE_NAMES:
        raise ValueError(f"shape: expected 1 (square), 2 (ellipse) or 3 (heart), found {shape}")
    centres = np.arange(CANVAS) + 0.5 - CANVAS / 2
    right, up = centres[None, :] / scale, -centres[:, None] / scale
    u = math.cos(orientation) * right + math.sin(orientation) * up
    v = math.cos(orientation) * up - math.sin(orientation) * right
    if shape == 1:
        level = np.maximum(np.abs(u), np.abs(v)) / _SQUARE_HALF_SIDE - 1
    elif shape == 2:
        level = (u / _ELLIPSE_HALF_AXES[0]) ** 2 + (v / _ELLIPSE_HALF_AXES[1]) ** 2 - 1
    else:
        u, v = u / _HEART_UNIT, v / _HEART_UNIT + _HEART_CENTRE
        level = (u**2 + v**2 - 1) ** 3 - u**2 * v**3
    pixels = level <= 1e-6  # a centre on the outline itself is inside, whatever the rounding
    pixels.setflags(write=False)  # the cache hands out this very array
    return pixels


def render(
    factors: Float32[np.ndarray, "E 9"], variant: str
) -> tuple[UInt8[np.ndarray, "64 64 C"], UInt8[np.ndarray, "E 64 64"]]:
    """Picture, and masks of 0 or 255 of what is visible of each entity (row 0 the background).

    Later rows lie in front; a sprite hidden entirely has an empty mask. C is 1 for binarized, else 3.
    ValueError for an unknown variant or shape code, or x, y outside [0,1).
    """
    channels = _variant(variant).channels
    entity = np.zeros((SIDE, SIDE), np.uint8)
    for index in range(1, len(factors)):
        x, y, shape, _, _, _, visibility, orientation, scale = factors[index].tolist()
        if not visibility:
            continue
        if not (0 <= x < 1 and 0 <= y < 1):
            raise ValueError(f"factors[{index}]: expected x and y in [0,1), found x={x}, y={y}")
        column, row = int(x * TRAVEL), int(y * TRAVEL)
        pixels = sprite(int(shape), orientation, scale)
        entity[row : row + CANVAS, column : column + CANVAS][pixels] = index
    palette = np.rint(factors[:, 3 : 3 + channels] * 255).astype(np.uint8)
    masks = (entity == np.arange(len(factors), dtype=np.uint8)[:, None, None]) * np.uint8(255)
    return palette[entity], masks


def sample(
    rng: np.random.Generator, variant: str
) -> tuple[UInt8[np.ndarray, "64 64 C"], UInt8[np.ndarray, "E 64 64"], Float32[np.ndarray, "E 9"]]:
    """Draw a scene and render it: image, masks, factors, as `core.synth.h5_writer.write_h5` takes them."""
    factors = sample_factors(rng, variant)
    image, masks = render(factors, variant)
    return image, masks, factors
