"""Outlines of masks, as people who annotate pictures draw them."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import binary_fill_holes

Point = tuple[int, int]


def outlines(mask: Bool[np.ndarray, "H W"], step: int = 1) -> list[Float[np.ndarray, "n 2"]]:
    """A polygon of corners (x, y) around each part of a mask, holes filled; it bends at most every `step` pixels.

    Corners are middles of the pixels' sides: at `step` 1 polygons hold the centres of just the pixels of the mask.
    """
    onward = _sides(binary_fill_holes(mask))
    found = []
    while onward:
        start = place = next(iter(onward))
        path = []
        while True:
            following = onward[place].pop()
            if not onward[place]:
                del onward[place]
            path.append(((place[0] + following[0]) / 2, (place[1] + following[1]) / 2))
            place = following
            if place == start:
                break
        every = max(1, min(step, len(path) // 4))
        found.append(np.array(path[::every], float))
    return found


def _sides(mask: Bool[np.ndarray, "H W"]) -> dict[Point, list[Point]]:
    """From every corner (x, y) of pixels the ends of the sides that begin there, the mask on their right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    onward: dict[Point, list[Point]] = {}
    for outside, begin, end in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # right
        (padded[2:, 1:-1], (1, 1), (0, 1)),  # below
        (padded[1:-1, :-2], (0, 1), (0, 0)),  # left
    ):
        for y, x in np.argwhere(inside & ~outside).tolist():
            onward.setdefault((x + begin[0], y + begin[1]), []).append((x + end[0], y + end[1]))
    return onward
