"""Tetrominoes: three shaded tetrominoes without overlap on black (Kabra et al. 2019, Multi-Object Datasets).

A picture follows from its factors alone, so that a picture of the published data set, described by its factors, is
reproduced bit for bit by `render`.
"""

import numpy as np
from jaxtyping import Float32, UInt8

SIDE = 35
BLOCK = 5
NUM_OBJECTS = 3
NUM_ENTITIES = 1 + NUM_OBJECTS
FACTOR_NAMES = ("x", "y", "shape", "colour_r", "colour_g", "colour_b", "visibility")

# Every block of every shape carries this shading, unrotated; a colour multiplies it.
TILE = np.array(
    [
        [191, 255, 255, 255, 223],
        [127, 159, 159, 159, 191],
        [127, 159, 159, 159, 191],
        [127, 159, 159, 159, 191],
        [95, 63, 63, 63, 127],
    ],
    np.uint8,
)

COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "magenta": (1, 0, 1),
    "cyan": (0, 1, 1),
}

# A shape's code is its place in this table. The number in a name is the clockwise turn in degrees. The four S and Z
# have codes 11..14, as in the published data; the places of the others are our choice.
SHAPES = {
    "O": "##/##",
    "I0": "####",
    "I90": "#/#/#/#",
    "L0": "#./#./##",
    "L90": "###/#..",
    "L180": "##/.#/.#",
    "L270": "..#/###",
    "J0": ".#/.#/##",
    "J90": "#../###",
    "J180": "##/#./#.",
    "J270": "###/..#",
    "S0": ".##/##.",
    "S90": "#./##/.#",
    "Z0": "##./.##",
    "Z90": ".#/##/#.",
    "T0": "###/.#.",
    "T90": ".#/##/.#",
    "T180": ".#./###",
    "T270": "#./##/#.",
}
SHAPE_NAMES = tuple(SHAPES)
# Orientations that no published picture known to us shows; without them there are the 17 shapes of the documentation.
UNCONFIRMED_SHAPES = ("J0", "T180")

_CELLS = [np.array([[cell == "#" for cell in row] for row in SHAPES[name].split("/")]) for name in SHAPE_NAMES]
_PIXELS = [np.kron(cells, np.ones((BLOCK, BLOCK), bool)) for cells in _CELLS]
_SHADING = [np.kron(cells, TILE) for cells in _CELLS]
_BLOCK_X = np.array([np.nonzero(cells)[1] * BLOCK for cells in _CELLS])
_BLOCK_Y = np.array([np.nonzero(cells)[0] * BLOCK for cells in _CELLS])
_OFFSETS_X = np.array([SIDE - pixels.shape[1] + 1 for pixels in _PIXELS])
_OFFSETS_Y = np.array([SIDE - pixels.shape[0] + 1 for pixels in _PIXELS])
_RGB = np.array(list(COLOURS.values()), np.float32)
_CODES = {
    19: np.arange(19),
    17: np.array([code for code, name in enumerate(SHAPE_NAMES) if name not in UNCONFIRMED_SHAPES]),
}
_FIRST, _SECOND = np.triu_indices(NUM_OBJECTS, 1)
_CANDIDATES = 16  # scenes tried at once; about one in seven has no overlap


def sample_factors(rng: np.random.Generator, num_shapes: int = 19) -> Float32[np.ndarray, "4 7"]:
    """Draw a scene: shapes, colours and offsets independent and uniform, the whole scene redrawn until none overlap.

    Row 0 is the background (shape -1), rows 1..3 are the objects; columns are `FACTOR_NAMES`. x, y: column and row of
    the top-left pixel of the object's bounding box; shape: code 0..18 (`SHAPE_NAMES`); colour 0 or 1; visibility 1.
    `num_shapes` is 19, which agrees with published counts, or 17 (without `UNCONFIRMED_SHAPES`). ValueError otherwise.
    """
    if num_shapes not in _CODES:
        raise ValueError(f"num_shapes: expected 17 or 19, found {num_shapes}")
    codes = _CODES[num_shapes]
    while True:
        shape = codes[rng.integers(len(codes), size=(_CANDIDATES, NUM_OBJECTS))]
        x = rng.integers(_OFFSETS_X[shape])
        y = rng.integers(_OFFSETS_Y[shape])
        accepted = np.flatnonzero(~_any_overlap(shape, x, y))
        if len(accepted):
            break
    scene = accepted[0]
    factors = np.zeros((NUM_ENTITIES, len(FACTOR_NAMES)), np.float32)
    factors[0, 2] = -1
    factors[1:, 0] = x[scene]
    factors[1:, 1] = y[scene]
    factors[1:, 2] = shape[scene]
    factors[1:, 3:6] = _RGB[rng.integers(len(_RGB), size=NUM_OBJECTS)]
    factors[:, 6] = 1
    return factors


def _any_overlap(shape: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Per candidate scene: do two objects share a pixel, that is, do two of their blocks."""
    block_x = _BLOCK_X[shape] + x[..., None]
    block_y = _BLOCK_Y[shape] + y[..., None]
    near_x = np.abs(block_x[:, _FIRST, :, None] - block_x[:, _SECOND, None, :]) < BLOCK
    near_y = np.abs(block_y[:, _FIRST, :, None] - block_y[:, _SECOND, None, :]) < BLOCK
    return (near_x & near_y).any(axis=(1, 2, 3))


def render(
    factors: Float32[np.ndarray, "4 7"],
) -> tuple[UInt8[np.ndarray, "35 35 3"], UInt8[np.ndarray, "4 35 35"]]:
    """Picture, and masks of 0 or 255 (row 0 the background), of the scene that `sample_factors` describes.

    ValueError for a shape code outside 0..18, an object not fully inside, or objects that share a pixel.
    """
    entity = np.zeros((SIDE, SIDE), np.uint8)
    shading = np.zeros((SIDE, SIDE, 1), np.uint8)
    for index in range(1, NUM_ENTITIES):
        x, y, code = (int(value) for value in factors[index, :3])
        if not 0 <= code < len(SHAPES):
            raise ValueError(f"factors[{index}]: expected a shape code 0..{len(SHAPES) - 1}, found {code}")
        if not (0 <= x < _OFFSETS_X[code] and 0 <= y < _OFFSETS_Y[code]):
            raise ValueError(
                f"factors[{index}]: {SHAPE_NAMES[code]} at x={x}, y={y} does not lie inside {SIDE}x{SIDE} pixels"
            )
        pixels = _PIXELS[code]
        window = np.s_[y : y + pixels.shape[0], x : x + pixels.shape[1]]
        if entity[window][pixels].any():
            raise ValueError(f"factors[{index}]: the object shares a pixel with an earlier one")
        entity[window] += pixels * np.uint8(index)
        shading[window] += _SHADING[code][..., None]
    image = shading * factors[:, 3:6].astype(np.uint8)[entity]
    masks = (entity == np.arange(NUM_ENTITIES, dtype=np.uint8)[:, None, None]) * np.uint8(255)
    return image, masks


def sample(
    rng: np.random.Generator, num_shapes: int = 19
) -> tuple[UInt8[np.ndarray, "35 35 3"], UInt8[np.ndarray, "4 35 35"], Float32[np.ndarray, "4 7"]]:
    """Draw a scene and render it: image, masks, factors, as `core.synth.h5_writer.write_h5` takes them."""
    factors = sample_factors(rng, num_shapes)
    image, masks = render(factors)
    return image, masks, factors
