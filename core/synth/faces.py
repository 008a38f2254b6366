"""Drawn faces in the file layout of CelebA (Liu et al. 2015): 178x218, eyes where the aligned photographs have them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from core.synth.encoded import jpeg
from core.synth.h5_writer import sample_rng
from core.synth.scene_writer import Files, Options

Colour = tuple[int, int, int]
SKINS = ((255, 224, 196), (241, 194, 150), (224, 172, 120), (176, 120, 80), (120, 76, 48), (84, 52, 36))
HAIRS = ((28, 22, 20), (70, 44, 26), (120, 74, 38), (214, 178, 110), (160, 60, 30), (150, 150, 155))
IRISES = ((70, 45, 25), (90, 120, 70), (70, 110, 160), (50, 50, 50))
FINER = 3
"""Pictures are drawn this much larger, and averaged."""
EYES, APART = 0.51, 0.09
"""Height of the eyes, as a share of the picture's, and half their distance, of it too."""
PARTS = {8: 1, 9: 2}
"""Of ten pictures the ninth is for validation, the tenth for testing."""


def make_face(index: int, *, seed: int, width: int, height: int) -> Files:
    """One face."""
    picture = draw_face(sample_rng(seed, "celeba", index), width, height)
    return {f"celeba/img_align_celeba/{index + 1:06d}.jpg": jpeg(picture)}


def partition(root: Path, count: int, options: Options) -> Files:
    """list_eval_partition.txt."""
    lines = (f"{index + 1:06d}.jpg {PARTS.get(index % 10, 0)}\n" for index in range(count))
    return {"celeba/list_eval_partition.txt": "".join(lines).encode()}


def draw_face(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """[height, width, 3] uint8."""
    size = (width * FINER, height * FINER)
    canvas = _background(rng, *size)
    pen = _Pen(canvas)
    skin, hair, iris = (tuple(map(int, table[rng.integers(len(table))])) for table in (SKINS, HAIRS, IRISES))
    broad, high = rng.uniform(0.16, 0.2), rng.uniform(0.24, 0.28)
    shade, lips = _mixed(skin, (60, 30, 30), 0.25), _mixed(skin, (190, 40, 60), rng.uniform(0.3, 0.8))
    long_hair, smile, glasses, bald = rng.random(4) < (0.5, 0.5, 0.15, 0.08)
    clothes = tuple(map(int, rng.integers(20, 230, 3)))
    if long_hair:
        pen.oval(0, 0.58, 1.45 * broad, 0.4, hair)
    pen.oval(0, 1.08, 0.36, 0.22, clothes)
    pen.oval(0, 0.84, 0.09, 0.16, shade)
    for side in (-1, 1):
        pen.oval(side * broad, EYES + 0.03, 0.025, 0.05, shade)
    if not bald:
        pen.oval(0, 0.42, 1.15 * broad, 0.25, hair)
    pen.oval(0, 0.56, broad, high, skin)
    if not bald:
        part = rng.uniform(-0.08, 0.08)
        pen.oval(part, 0.56 - high, 0.85 * broad, rng.uniform(0.05, 0.12), hair)
    for side in (-1, 1):
        x, tilt = side * APART, side * rng.uniform(-0.008, 0.008)
        pen.oval(x, EYES, 0.036, rng.uniform(0.014, 0.02), (245, 245, 240))
        pen.oval(x + tilt, EYES, 0.014, 0.014, iris)
        pen.oval(x + tilt, EYES, 0.006, 0.006, (10, 10, 10))
        pen.oval(x, EYES - 0.055, 0.045, 0.009, _mixed(hair, skin, 0.2))
        if glasses:
            pen.ring(x, EYES, 0.06, 0.045, (30, 30, 30))
    pen.oval(0, 0.605, 0.022, 0.035, shade)
    pen.oval(0, 0.595, 0.017, 0.033, skin)
    pen.oval(0, 0.7, rng.uniform(0.05, 0.075), 0.024 if smile else 0.014, lips)
    if smile:
        pen.oval(0, 0.698, 0.045, 0.01, (250, 248, 245))
    small = canvas.filter(ImageFilter.GaussianBlur(FINER / 2)).resize((width, height), Image.Resampling.BOX)
    return _lit(rng, np.asarray(small))


class _Pen:
    """Draws ovals; lengths are shares of the picture's height, x counts from the middle, y from the top."""

    def __init__(self, canvas: Image.Image):
        self.draw = ImageDraw.Draw(canvas)
        self.middle, self.unit = canvas.width / 2, canvas.height

    def oval(self, x: float, y: float, broad: float, high: float, colour: Colour) -> None:
        self.draw.ellipse(self._box(x, y, broad, high), fill=colour)

    def ring(self, x: float, y: float, broad: float, high: float, colour: Colour) -> None:
        self.draw.ellipse(self._box(x, y, broad, high), outline=colour, width=max(1, round(0.008 * self.unit)))

    def _box(self, x: float, y: float, broad: float, high: float) -> tuple[float, float, float, float]:
        column, row = self.middle + x * self.unit, y * self.unit
        return column - broad * self.unit, row - high * self.unit, column + broad * self.unit, row + high * self.unit


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Four colours that run into one another."""
    corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def _lit(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """From one side, and with the grain of a photograph."""
    height, width, _ = picture.shape
    y, x = np.mgrid[:height, :width] / height - 0.5
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.5)
    light = 1 + strength * (np.cos(angle) * x + np.sin(angle) * y)
    return np.clip(picture * light[..., None] + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round((1 - share) * a + share * b) for a, b in zip(one, other))
    return red, green, blue
