"""Pictures of one short side but of any long side, decoded once into the cache: laid end to end along the long side."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from core.data.cache import cached_rows
from core.data.video import MOST_THREADS, check_room, stamp

AT_A_TIME = 64
Decode = Callable[[int], UInt8[np.ndarray, "H W 3"]]


class PictureStrip:
    """Squares cut out of `decode(0)`, `decode(1)`, ..., whose heights and widths are the `sizes`.

    The shorter of a picture's sides is that of the squares, and the same for all; nothing is lost of the longer one.
    `sources` are the files that the pictures come from, `path` is the folder of their data set.
    """

    def __init__(
        self, path: Path, recipe: str, sources: Sequence[Path], sizes: Int64[np.ndarray, "n 2"], decode: Decode
    ):
        self.side = int(sizes.min())
        self.lengths = sizes.max(axis=1)
        self._lies = sizes[:, 1] > sizes[:, 0]
        self._starts = np.cumsum(self.lengths) - self.lengths
        shape = (int(self.lengths.sum()), self.side, 3)
        rows = self._decoded_rows(path, decode)
        self._rows = cached_rows(
            path,
            f"{recipe}-{stamp(path, sources)}",
            shape,
            lambda begin, end: np.stack(list(itertools.islice(rows, end - begin))),
        )

    def square(self, index: int, offset: int) -> UInt8[np.ndarray, "S S 3"]:
        """Of one picture, the square `offset` pixels from its left or upper end."""
        begin = self._starts[index] + offset
        rows = self._rows[begin : begin + self.side]
        return rows.transpose(1, 0, 2) if self._lies[index] else rows

    def _decoded_rows(self, path: Path, decode: Decode) -> Iterator[UInt8[np.ndarray, "S 3"]]:
        """Of all pictures in order, along their longer sides, on as many threads as there are cores."""
        check_room(path, 3 * self.side * int(self.lengths.sum()))
        numbers = range(len(self.lengths))
        with ThreadPoolExecutor(min(MOST_THREADS, len(os.sched_getaffinity(0)))) as pool:
            for begin in range(0, len(numbers), AT_A_TIME):
                some = numbers[begin : begin + AT_A_TIME]
                for number, picture in zip(some, pool.map(decode, some)):
                    yield from picture.transpose(1, 0, 2) if self._lies[number] else picture
