"""Pictures of a few shapes on even grey, in the files of coloured Multi-dSprites, for checks that a model learns."""

from pathlib import Path

import h5py
import numpy as np

CANVAS = 12
GREY = 110
COLOURS = np.array([(230, 60, 50), (60, 200, 80), (70, 90, 240)], np.uint8)


def shapes(canvas: int = CANVAS) -> np.ndarray:
    """A square, a triangle and a cross, (3, canvas, canvas)."""
    y, x = (np.mgrid[:canvas, :canvas] - (canvas - 1) / 2) * (CANVAS / canvas)
    square = (abs(x) <= 4) & (abs(y) <= 4)
    triangle = (abs(y) <= 5) & (2 * abs(x) <= y + 5.5)
    cross = (np.minimum(abs(x), abs(y)) <= 1.5) & (np.maximum(abs(x), abs(y)) <= 5.5)
    return np.stack((square, triangle, cross))


def write_multi_dsprites(
    root: Path,
    count: int = 2000,
    side: int = 32,
    fewest: int = 1,
    most: int = 2,
    canvas: int = CANVAS,
    overlap: bool = True,
    greys: tuple[int, int] = (GREY, GREY),
) -> None:
    """`fewest` to `most` of the shapes in every picture, each of one of three colours and anywhere.

    Without `overlap` the square around a shape holds nothing of those before it. Every picture has a grey of its own,
    from the first of `greys` to the second.

    The file is `root/multi_dsprites/multi_dsprites_colored_on_grayscale.h5`, its masks are one channel per object
    after that of the background.
    """
    rng = np.random.default_rng(0)
    grey = np.random.default_rng(1).integers(greys[0], greys[1] + 1, (count, 1, 1, 1))
    images = np.broadcast_to(grey, (count, side, side, 3)).astype(np.uint8)
    labels = np.zeros((count, side, side), np.uint8)
    for image, label in zip(images, labels):
        for number in range(1, rng.integers(fewest, most + 1) + 1):
            place = _square(rng, side, canvas)
            while not overlap and label[place].any():
                place = _square(rng, side, canvas)
            shape = shapes(canvas)[rng.integers(3)]
            image[place][shape], label[place][shape] = COLOURS[rng.integers(3)], number
    masks = labels[:, None, :, :, None] == np.arange(most + 1).reshape(1, -1, 1, 1, 1)
    folder = root / "multi_dsprites"
    folder.mkdir(parents=True)
    with h5py.File(folder / "multi_dsprites_colored_on_grayscale.h5", "w") as file:
        file["train/imgs"] = images
        file["train/masks"] = 255 * masks.astype(np.uint8)


def _square(rng: np.random.Generator, side: int, canvas: int) -> tuple[slice, slice]:
    """Anywhere in a picture."""
    row, column = rng.integers(0, side - canvas + 1, 2)
    return np.s_[row : row + canvas, column : column + canvas]
