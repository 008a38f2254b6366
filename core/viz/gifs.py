"""Animated gifs."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from core.files import replacing

MAX_FPS = 50  # browsers slow down frames shorter than 20 ms


def encode_gif(frames: UInt8[np.ndarray, "T H W 3"], fps: int | float) -> bytes:
    """A gif that loops for ever.

    Gifs count time in steps of 10 ms: frames are made longer or shorter by one step such that none starts off beat by
    more than half a step. Each frame has its own palette of 256 colours. Pillow stores equal consecutive frames as one
    frame of their summed duration.

    Raises ValueError without frames, or if fps is not above 0 and at most 50.
    """
    if len(frames) == 0:
        raise ValueError("a gif needs at least one frame, found none")
    if not 0 < fps <= MAX_FPS:
        raise ValueError(f"expected fps above 0 and at most {MAX_FPS}, found {fps}; leave out frames to go faster")
    starts = [round(100 * frame / fps) for frame in range(len(frames) + 1)]
    durations = [10 * (end - start) for start, end in pairwise(starts)]
    first, *rest = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0)
    return buffer.getvalue()


def save_gif(path: str | Path, frames: UInt8[np.ndarray, "T H W 3"], fps: int | float) -> None:
    """Write `encode_gif` to a file, creating its folder; a reader never sees half a file.

    Raises ValueError, naming the file, as `encode_gif` does.
    """
    try:
        encoded = encode_gif(frames, fps)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)
