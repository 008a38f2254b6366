"""COCO's run-length code of binary masks (Lin et al. 2014), compressed as CLEVRER's proposals hold them.

A mask is read column by column; its counts are the lengths of its runs of zeros and ones in turn, zeros first. COCO's
annotations of crowds have them as a list. Compressed they are a string: from the fourth run on the difference to the
run before the last is stored. Numbers are cut into groups of five bits, lowest first, each written as the character
48 + group, + 32 if more groups follow; the last one's highest bit is the sign.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

_FIRST_CHARACTER = 48


def decode_run_lengths(counts: str, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask of (height, width) `size` that a string of counts stands for. ValueError if it does not fit."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        group = ord(character) - _FIRST_CHARACTER
        if not 0 <= group < 64:
            raise ValueError(f"{character!r} is no character of a run-length code")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError(f"the run-length code ends within a number; before it the runs cover {sum(runs)} pixels")
    return mask_of_runs(runs, size)


def mask_of_runs(runs: Sequence[int], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask of (height, width) `size` with these lengths of runs. ValueError if they do not fit."""
    height, width = size
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"the runs cover {sum(runs)} pixels, not {height} x {width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def encode_run_lengths(mask: UInt8[np.ndarray, "H W"] | Bool[np.ndarray, "H W"]) -> str:
    """The compressed counts of a mask, whose pixels are set where they are not 0."""
    runs = runs_of_mask(mask)
    return "".join(_characters(run - runs[i - 2] if i > 2 else run) for i, run in enumerate(runs))


def runs_of_mask(mask: UInt8[np.ndarray, "H W"] | Bool[np.ndarray, "H W"]) -> list[int]:
    """The counts of a mask, whose pixels are set where they are not 0."""
    pixels = mask.T.ravel() != 0
    borders = np.flatnonzero(np.diff(pixels)) + 1
    runs = np.diff([0, *borders, pixels.size]).tolist()
    if pixels[0]:
        runs.insert(0, 0)
    return runs


def _characters(value: int) -> str:
    text = ""
    while True:
        group, value = value & 31, value >> 5
        is_last = value == (-1 if group & 16 else 0)
        text += chr(_FIRST_CHARACTER + group + (0 if is_last else 32))
        if is_last:
            return text
