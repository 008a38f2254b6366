"""Animated gifs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from core.files import replacing

MAX_FPS = 50  # browsers slow down frames shorter than 20 ms


def save_gif(path: str | Path, frames: UInt8[np.ndarray, "T H W 3"], fps: int | float) -> None:
    """Write frames as a gif that loops for ever, creating its folder; a reader never sees half a file.

    Gifs count time in steps of 10 ms: frames are made longer or shorter by one step such that none starts off beat by
    more than half a step. Each frame has its own palette of 256 colours. Pillow stores equal consecutive frames as one
    frame of their summed duration.

    Raises ValueError without frames, or if fps is not above 0 and at most 50.
    """
    if len(frames) == 0:
        raise ValueError(f"{path}: a gif needs at least one frame, found none")
    if not 0 < fps <= MAX_FPS:
        raise ValueError(
            f"{path}: expected fps above 0 and at most {MAX_FPS}, found {fps}; leave out frames to go faster"
        )
    starts = [round(100 * frame / fps) for frame in range(len(frames) + 1)]
    durations = [10 * (end - start) for start, end in pairwise(starts)]
    first, *rest = (Image.fromarray(frame) for frame in frames)
    with replacing(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0)
