"""PHYRE's simulations as frames of videos, kept on disk by whichever process first asks for them."""

import fcntl
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8

from core.data.errors import DataError
from core.data.video import resize_frames

# Of codes 0 to 7: background; user's ball; goal object; its partner, moving or standing; others, moving or standing;
# unused.
COLOURS = np.array(
    [
        (0xFF, 0xFF, 0xFF),
        (0xF3, 0x4F, 0x46),
        (0x6B, 0xCE, 0xBB),
        (0x18, 0x77, 0xF2),
        (0x4B, 0x4A, 0xA4),
        (0xB9, 0xCA, 0xD2),
        (0x00, 0x00, 0x00),
        (0xFC, 0xDF, 0xE3),
    ],
    np.uint8,
)

Codes = UInt8[np.ndarray, "T H W"]
Trial = tuple[str, bytes]
"""A task and the three float64 of an action."""
SECONDS_TO_WAIT = 60
TABLE = """CREATE TABLE IF NOT EXISTS recordings (task TEXT, action BLOB, length INTEGER, last_moving INTEGER,
is_solved INTEGER, frames BLOB, PRIMARY KEY (task, action))"""


def colour_frames(codes: Codes, reverse_color: bool) -> UInt8[np.ndarray, "T H W 3"]:
    """Pictures of colour codes, upright (codes have row 0 at the bottom).

    `reverse_color` swaps white and black: a black background, and white bodies that stand.
    """
    table = COLOURS[[6, 1, 2, 3, 4, 5, 0, 7]] if reverse_color else COLOURS
    return table[codes[:, ::-1]]


def last_moving_index(frames: Shaped[np.ndarray, "T *rest"]) -> int:
    """Place of the first frame that equals its successor; of the last frame if that is the first one or there is none.

    A video that never moves is thus kept whole, as in the original.
    """
    is_pause = (frames[1:] == frames[:-1]).all(axis=tuple(range(1, frames.ndim)))
    return int(is_pause.argmax()) if is_pause.any() and not is_pause[0] else len(frames) - 1


def fixed_length(frames: Shaped[np.ndarray, "T *rest"], length: int) -> Shaped[np.ndarray, "_ *rest"]:
    """The first `length` frames, the last one repeated if there are fewer."""
    return frames[np.minimum(np.arange(length), len(frames) - 1)]


@dataclass(frozen=True, eq=False)
class Recording:
    """Frames as a data set gives them; those after the last change are left out, though `length` counts them too.

    `last_moving` is the `last_moving_index`.
    """

    frames: UInt8[np.ndarray, "S H W 3"]
    length: int
    last_moving: int
    is_solved: bool

    def clip(self, num_frames: int, is_whole: bool) -> tuple[UInt8[np.ndarray, "T H W 3"], int]:
        """The first `num_frames` frames, up to where the video first pauses unless `is_whole`, and how many there are.

        If there are fewer the last one is repeated.
        """
        count = min(self.length if is_whole else self.last_moving + 1, num_frames)
        return fixed_length(self.frames[:count], num_frames), count


def recording_of(codes: Codes, is_solved: bool, size: tuple[int, int], reverse_color: bool) -> Recording:
    """Frames of a simulation at training size."""
    changes = np.flatnonzero((codes[1:] != codes[:-1]).any(axis=(1, 2)))
    moving = codes[: 2 + changes[-1]] if len(changes) else codes[:1]
    frames = np.ascontiguousarray(resize_frames(colour_frames(moving, reverse_color), size))
    return Recording(frames, len(codes), last_moving_index(codes), is_solved)


class Recordings:
    """A file of recordings (SQLite). Many processes may read and write; none holds it open between two reads.

    Each batch of recordings is written whole or not at all, so kill -9 leaves a file that the next process goes on
    with. Raises DataError if the file cannot be used.
    """

    def __init__(self, path: Path, size: tuple[int, int]):
        self.path = path
        self.size = size
        # SQLite lets only one process at a time make a file, and does not wait for it.
        with self._reporting_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_name(f".{path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with closing(sqlite3.connect(path)) as file:
                    file.execute("PRAGMA journal_mode = WAL")
                    file.execute(TABLE)

    def read(self, trials: Sequence[Trial], record: Callable[[Trial], Recording]) -> list[Recording]:
        """The recordings of `trials`; those that are missing are made by `record` and kept."""
        with self._open() as file:
            found = {trial: self._find(file, trial) for trial in dict.fromkeys(trials)}
        made = {trial: record(trial) for trial, recording in found.items() if recording is None}
        if made:
            rows = [
                (*trial, r.length, r.last_moving, r.is_solved, zlib.compress(r.frames.tobytes(), 1))
                for trial, r in made.items()
            ]
            with self._open() as file, file:
                file.executemany("INSERT OR IGNORE INTO recordings VALUES (?, ?, ?, ?, ?, ?)", rows)
        found |= made
        return [found[trial] for trial in trials]

    def _find(self, file: sqlite3.Connection, trial: Trial) -> Recording | None:
        query = "SELECT length, last_moving, is_solved, frames FROM recordings WHERE task = ? AND action = ?"
        row = file.execute(query, trial).fetchone()
        if row is None:
            return None
        length, last_moving, is_solved, packed = row
        frames = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(-1, *self.size, 3)
        return Recording(frames, length, last_moving, bool(is_solved))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._reporting_errors(), closing(sqlite3.connect(self.path, timeout=SECONDS_TO_WAIT)) as file:
            file.execute("PRAGMA synchronous = NORMAL")
            yield file

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, zlib.error, ValueError) as error:
            raise DataError(
                f"{self.path}: cannot keep simulated videos there ({error}). Remove the file if it is damaged; make "
                "room, or set OBJECTCENTRIC_CACHE to a folder with space"
            ) from error
