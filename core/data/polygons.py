"""Polygons as masks of pixels."""

import numpy as np
from jaxtyping import Bool, Float


def fill_polygon(corners: Float[np.ndarray, "n 2"], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The pixels of a picture of (height, width) `size` whose centres lie inside, by the even-odd rule.

    Corners are (x, y) from the picture's upper left corner, in pixels; they may lie outside of it.
    """
    height, width = size
    # A pixel is inside if the polygon's sides cross its row an odd number of times to the left of its centre.
    crossed = np.zeros((height, width + 1), bool)
    for (x, y), (next_x, next_y) in zip(corners, np.roll(corners, -1, axis=0)):
        top, bottom = np.clip(np.ceil([min(y, next_y) - 0.5, max(y, next_y) - 0.5]), 0, height).astype(int)
        if top == bottom:
            continue
        rows = np.arange(top, bottom)
        crossings = x + (rows + 0.5 - y) * ((next_x - x) / (next_y - y))
        crossed[rows, np.clip(np.ceil(crossings - 0.5), 0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(crossed, axis=1)[:, :width]
