"""Slots of videos on disk: HDF5 files, the originals' pickles, and folders of one .npy file per video.

A file holds one float32 data set [T, K, D] for each split and video, `/<split>/<name>`, and the attributes `weight`,
`weight_sha256` and `provenance` (JSON) of the model that they come from. core/data/slot_writer.py writes it.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Float32, Int64

from core.data.cache import cache_folder
from core.data.errors import DataError
from core.data.safe_pickle import load_pickle
from core.files import replacing

PICKLE, HDF5 = ".pkl", ".h5"
LENGTHS = "lengths.npy"
FOLDERS_OF_WEIGHTS = ("models", "models/epoch")
"""Within the folder of a training."""
AGAIN = "Extract the slots again"

Slots = Float32[np.ndarray, "T K D"]


class Place(NamedTuple):
    """Of a video in a file."""

    offset: int
    shape: tuple[int, int, int]


def find_slots(path: str | Path) -> Path:
    """`path`, or the file beside it that differs in its suffix: .h5 where configurations say .pkl, and the reverse.

    Raises DataError if neither is there.
    """
    path = Path(path)
    for other in (path, path.with_suffix(HDF5), path.with_suffix(PICKLE)):
        if other.is_file():
            return other
    why = "a link to a file that is gone" if path.is_symlink() else f"no such file, nor one with the suffix {HDF5}"
    raise DataError(
        f"{path}: {why}. Extract the slots first: python slotformer/base_slots/extract_slots.py --save_path {path} ..."
    )


def slots_path(path: str | Path) -> Path:
    """`path` if that is there, else what has its name in a folder of weights beside it, `models` before `models/epoch`.

    Scripts link the slots that they make beside the weight that made them; configurations name them in the folder of
    the training, above that. A file may have the other suffix. `path` again if nothing is there.
    """
    path = Path(path)
    for found in (path, *(path.parent / folder / path.name for folder in FOLDERS_OF_WEIGHTS)):
        if any(other.exists() for other in (found, found.with_suffix(HDF5), found.with_suffix(PICKLE))):
            return found
    return path


class SlotFile:
    """The slots of all videos of a data set, by split and name. Raises DataError.

    Nothing is open between two reads and a read takes its frames only, so any number of data workers may share one. A
    pickle is converted once, into the cache, and takes all its size in memory while that lasts.
    """

    def __init__(self, path: str | Path):
        self.path = find_slots(path)
        self._file = _converted(self.path) if self.path.suffix == PICKLE else self.path
        self._places, self.provenance = _index(self._file)

    @property
    def splits(self) -> list[str]:
        return list(self._places)

    def names(self, split: str) -> list[str]:
        """The videos of a split, sorted."""
        return list(self._of_split(split))

    def shape(self, split: str, name: str) -> tuple[int, int, int]:
        """T, K, D of a video."""
        return self._place(split, name).shape

    def check(self, split: str, names: Iterable[str]) -> None:
        """DataError unless all these videos are there."""
        known = self._of_split(split)
        if missing := [name for name in names if name not in known]:
            raise DataError(
                f"{self.path}: {split} has no slots of {missing[0]} ({len(missing)} videos are missing, {len(known)} "
                f"are there). Are they of other data? {AGAIN}"
            )

    def read(self, split: str, name: str, frames: slice = slice(None)) -> Slots:
        """The slots of these frames of a video."""
        place = self._place(split, name)
        try:
            video = np.memmap(self._file, np.float32, "r", place.offset, place.shape)
        except (OSError, ValueError) as error:
            raise DataError(f"{self._file}: {split}/{name} cannot be read ({error}). {AGAIN}") from error
        return np.array(video[frames])

    def _of_split(self, split: str) -> dict[str, Place]:
        if split not in self._places:
            raise DataError(
                f"{self.path}: no split {split!r}, only {', '.join(self._places) or 'an empty file'}. {AGAIN}"
            )
        return self._places[split]

    def _place(self, split: str, name: str) -> Place:
        self.check(split, [name])
        return self._places[split][name]


def _index(path: Path) -> tuple[dict[str, dict[str, Place]], dict[str, Any]]:
    """Where every video lies, and the provenance."""
    places: dict[str, dict[str, Place]] = {}
    try:
        with h5py.File(path, "r") as file:
            provenance = json.loads(file.attrs.get("provenance", "{}"))
            for split, group in file.items():
                places[split] = {name: _place_of(dataset, path) for name, dataset in group.items()}
    except DataError:
        raise
    except Exception as error:  # h5py raises many kinds on a damaged file
        raise DataError(f"{path}: not a readable file of slots ({error}). It is damaged: {AGAIN.lower()}") from error
    return places, provenance


def _place_of(dataset: h5py.Dataset, path: Path) -> Place:
    offset = dataset.id.get_offset()
    if dataset.dtype != np.float32 or dataset.ndim != 3 or offset is None:
        raise DataError(
            f"{path}: {dataset.name} is {dataset.dtype} {list(dataset.shape)}, expected float32 (frames, slots, slot "
            f"size) in one piece, neither compressed nor in chunks. {AGAIN}"
        )
    return Place(offset, dataset.shape)


def write_h5(path: Path, videos: Iterable[tuple[str, str, Slots]], attributes: Mapping[str, str]) -> None:
    """A file of (split, name, slots), which appears when it is complete."""
    with replacing(path, durable=True) as partial, h5py.File(partial, "w") as file:
        file.attrs.update(attributes)
        for split, name, slots in videos:
            file.require_group(split).create_dataset(name, data=slots)


def _converted(path: Path) -> Path:
    """The pickle `path` as HDF5 in the cache; one process converts while others wait."""
    status = path.stat()
    identity = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    target = cache_folder() / f"{path.stem}-slots-{hashlib.sha256(identity.encode()).hexdigest()[:16]}{HDF5}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                splits = read_slot_pickle(path)
                write_h5(target, ((split, *item) for split, videos in splits.items() for item in videos.items()), {})
    except OSError as error:
        raise DataError(
            f"{target}: cannot keep the slots of {path} ({error.strerror or error}). Make room, or set "
            "OBJECTCENTRIC_CACHE to a folder with space"
        ) from error
    return target


def read_slot_pickle(path: Path) -> dict[str, dict[str, Slots]]:
    """All of a pickle {split: {video: slots [T, K, D]}} as the originals write it. Raises DataError."""
    splits = load_pickle(path)
    expected = "expected {split: {video: array of frames x slots x slot size}}"
    if not isinstance(splits, dict) or not all(isinstance(videos, dict) for videos in splits.values()):
        raise DataError(f"{path}: not a file of slots, {expected}")
    for split, videos in splits.items():
        for name, slots in videos.items():
            if not (isinstance(slots, np.ndarray) and slots.ndim == 3 and slots.dtype.kind == "f" and "/" not in name):
                found = f"{slots.dtype} {list(slots.shape)}" if isinstance(slots, np.ndarray) else type(slots).__name__
                raise DataError(f"{path}: {split}/{name} is {found}, {expected}")
            videos[name] = slots.astype(np.float32, copy=False)
    return splits


class SlotFolder:
    """The slots of trials, one file `<number %06d>.npy` float32 [its length, K, D] each: SlotFormer's for PHYRE.

    `count` is how many there must be; the script `made_by` writes them. Raises DataError.
    """

    def __init__(self, path: str | Path, count: int, made_by: str = "slotformer/base_slots/extract_phyre_slots.py"):
        self.path = Path(path)
        self.count = count
        self.made_by = made_by
        if not self.path.is_dir():
            raise DataError(f"{path}: no such folder. Make the slots first: python {made_by} ...")

    def __len__(self) -> int:
        return self.count

    def file(self, trial: int) -> Path:
        return self.path / f"{trial:06d}.npy"

    def read(self, trial: int, frames: slice | Sequence[int] = slice(None)) -> Slots:
        """The slots of these frames of a trial; no others are read."""
        slots = self._open(trial)
        try:
            return np.array(slots[frames])
        except IndexError as error:
            raise DataError(f"{self.file(trial)}: has {len(slots)} frames, expected those of {list(frames)}") from error

    @cached_property
    def lengths(self) -> Int64[np.ndarray, "M"]:
        """Frames of each trial, from the index if there is one; else all files are opened."""
        try:
            lengths = np.load(self.path / LENGTHS, allow_pickle=False)
        except FileNotFoundError:
            lengths = self._measured()
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{self.path / LENGTHS}: not readable ({error}). Remove it: it is made again") from error
        if lengths.shape != (self.count,):
            raise DataError(
                f"{self.path}: has slots of {len(lengths)} trials, expected {self.count}. Are they of another "
                f"configuration? {AGAIN}"
            )
        return lengths.astype(np.int64)

    def missing(self) -> list[int]:
        """Trials without a file."""
        found = {entry.name for entry in self.path.iterdir()}
        return [trial for trial in range(self.count) if self.file(trial).name not in found]

    def write_index(self) -> None:
        """Keep the lengths of all trials, of which none must be missing."""
        lengths = self._measured()
        with replacing(self.path / LENGTHS) as partial, partial.open("wb") as file:
            np.save(file, lengths)

    def _measured(self) -> Int64[np.ndarray, "M"]:
        if missing := self.missing():
            raise DataError(
                f"{self.file(missing[0])}: no such file ({len(missing)} of {self.count} are missing). Start "
                f"{self.made_by} again: it makes what is missing"
            )
        return np.array([len(self._open(trial)) for trial in range(self.count)], np.int64)

    def _open(self, trial: int) -> np.ndarray:
        path = self.file(trial)
        try:
            slots = np.load(path, mmap_mode="r", allow_pickle=False)
            if slots.dtype != np.float32 or slots.ndim != 3:
                raise ValueError(f"{slots.dtype} {list(slots.shape)}, expected float32 (frames, slots, slot size)")
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}). Remove it, and start {self.made_by} again") from error
        return slots
