"""Procedural materials: patterns of noise, cells, bricks, stripes, ... in two or three colours, drawn from a seed.

A material is named by its pattern and a number, `marble_3`; the number seeds its colours and proportions, so that the
same name is the same material everywhere. Textures tile: their left edge meets their right one.
"""

import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, map_coordinates

from core.synth.scene import Material

SIDE = 256
Plane = Float[np.ndarray, "S S"]


def noise(rng: np.random.Generator, cells: int, octaves: int = 4) -> Plane:
    """Sums of smooth random planes in 0..1, each of twice the frequency and half the strength of the one before."""
    total = np.zeros((SIDE, SIDE))
    for octave in range(octaves):
        coarse = rng.random((cells << octave,) * 2)
        places = np.arange(SIDE) * (cells << octave) / SIDE
        grid = np.stack(np.meshgrid(places, places, indexing="ij"))
        total += map_coordinates(coarse, grid, order=3, mode="grid-wrap") / 2**octave
    return _to_unit(total)


def _to_unit(plane: Plane) -> Plane:
    return (plane - plane.min()) / max(plane.max() - plane.min(), 1e-9)


def _axes() -> tuple[Plane, Plane]:
    places = np.arange(SIDE) / SIDE
    return tuple(np.meshgrid(places, places, indexing="ij"))


def _clouds(rng: np.random.Generator) -> Plane:
    return noise(rng, int(rng.integers(2, 7)))


def _speckle(rng: np.random.Generator) -> Plane:
    return _to_unit(gaussian_filter(rng.random((SIDE, SIDE)), rng.uniform(1, 3), mode="wrap"))


def _marble(rng: np.random.Generator) -> Plane:
    y, x = _axes()
    bands = int(rng.integers(1, 4)) * x + int(rng.integers(0, 3)) * y
    return np.abs(np.sin(np.pi * (bands + rng.uniform(1, 2.5) * noise(rng, 3)))) ** 0.6


def _wood(rng: np.random.Generator) -> Plane:
    y, _ = _axes()
    rings = int(rng.integers(3, 8))
    wave = y * rings + rng.uniform(0.5, 1.2) * noise(rng, 2, 3)
    return 0.8 * (wave % 1) + 0.2 * noise(rng, 32, 2)


def _stripes(rng: np.random.Generator) -> Plane:
    y, x = _axes()
    across, down = int(rng.integers(0, 7)), int(rng.integers(0, 7))
    return ((across * x + (down + (across + down == 0) * 4) * y) % 1 < rng.uniform(0.3, 0.7)).astype(float)


def _checker(rng: np.random.Generator) -> Plane:
    y, x = _axes()
    squares = 2 * int(rng.integers(1, 5))
    return ((np.floor(x * squares) + np.floor(y * squares)) % 2).astype(float)


def _bricks(rng: np.random.Generator) -> Plane:
    y, x = _axes()
    rows, columns = 2 * int(rng.integers(2, 6)), int(rng.integers(2, 5))
    row = np.floor(y * rows)
    across = (x * columns + 0.5 * (row % 2)) % 1
    mortar = rng.uniform(0.05, 0.12)
    brick = (across > mortar / 2) & ((y * rows) % 1 > mortar)
    tone = rng.random((rows, columns + 1))[
        row.astype(int), np.floor(x * columns + 0.5 * (row % 2)).astype(int) % columns
    ]
    return np.where(brick, 0.45 + 0.55 * tone, 0.0) * (0.85 + 0.15 * noise(rng, 16, 2))


def _cells(rng: np.random.Generator) -> Plane:
    count = int(rng.integers(8, 40))
    centres = rng.random((count, 2))
    y, x = _axes()
    nearest = np.full((2, SIDE, SIDE), np.inf)
    for cy, cx in centres:
        dy, dx = np.abs(y - cy), np.abs(x - cx)
        distance = np.hypot(np.minimum(dy, 1 - dy), np.minimum(dx, 1 - dx))
        nearest = np.sort(np.concatenate([nearest, distance[None]]), axis=0)[:2]
    return _to_unit(nearest[1] - nearest[0]) ** 0.5


def _dots(rng: np.random.Generator) -> Plane:
    y, x = _axes()
    count = int(rng.integers(3, 9))
    return (np.hypot((x * count) % 1 - 0.5, (y * count) % 1 - 0.5) < rng.uniform(0.2, 0.42)).astype(float)


def _weave(rng: np.random.Generator) -> Plane:
    y, x = _axes()
    threads = 2 * int(rng.integers(3, 9))
    over = (np.floor(x * threads) + np.floor(y * threads)) % 2
    round_x, round_y = np.sin(np.pi * ((x * threads) % 1)), np.sin(np.pi * ((y * threads) % 1))
    return np.where(over > 0, round_x, 0.8 * round_y)


def _rust(rng: np.random.Generator) -> Plane:
    return (noise(rng, 4) > rng.uniform(0.4, 0.6)) * (0.6 + 0.4 * noise(rng, 24, 2))


def _waves(rng: np.random.Generator) -> Plane:
    y, x = _axes()
    bends = int(rng.integers(1, 4))
    return 0.5 + 0.5 * np.sin(2 * np.pi * (int(rng.integers(3, 8)) * y + 0.15 * np.sin(2 * np.pi * bends * x)))


PATTERNS: dict[str, Callable[[np.random.Generator], Plane]] = {
    "clouds": _clouds,
    "speckle": _speckle,
    "marble": _marble,
    "wood": _wood,
    "stripes": _stripes,
    "checker": _checker,
    "bricks": _bricks,
    "cells": _cells,
    "dots": _dots,
    "weave": _weave,
    "rust": _rust,
    "waves": _waves,
}
PER_PATTERN = 5
MATERIALS = tuple(f"{pattern}_{number}" for pattern in PATTERNS for number in range(PER_PATTERN))
UNSEEN_MATERIALS = tuple(f"{pattern}_{PER_PATTERN + number}" for pattern in PATTERNS for number in range(2))
"""Of the out-of-distribution sets."""


def material(name: str, scale: float = 1.0) -> Material:
    """The material of that name; `scale` is how often its texture repeats over a surface.

    Raises KeyError for an unknown pattern.
    """
    return replace(_unscaled(name), texture_scale=scale)


@cache
def _unscaled(name: str) -> Material:
    pattern, _, _ = name.rpartition("_")
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    amount = PATTERNS[pattern](rng)[..., None]
    dark, bright = palette(rng)
    fine = 1 + 0.12 * (noise(rng, 32, 2)[..., None] - 0.5)
    texture = ((dark + (bright - dark) * amount) * fine).clip(0.01, 0.98)
    metallic = float(rng.random() < 0.25)
    roughness = float(rng.uniform(0.2, 0.45) if metallic else rng.uniform(0.35, 0.9))
    texture = texture.astype(np.float32)
    texture.setflags(write=False)
    return Material(texture=texture, roughness=roughness, metallic=metallic, name=name)


def palette(rng: np.random.Generator) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Two linear colours that differ in brightness."""
    base = rng.random(3) ** 1.5
    other = rng.random(3) ** 1.5
    dark = 0.25 * base / max(base.max(), 0.2)
    bright = 0.35 + 0.6 * other
    return dark, bright
