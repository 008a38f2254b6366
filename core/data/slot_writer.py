"""Writes files of slots (core/data/slots.py) video by video, from several processes, in spite of interruptions."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from core.data.errors import DataError
from core.data.slots import HDF5, PICKLE, Slots, write_h5
from core.files import occupy, replacing
from core.provenance import Provenance, read_provenance, write_provenance


def save_array(path: Path, array: np.ndarray) -> None:
    """A .npy file, which is there as a whole or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array)


class SlotWriter:
    """Gathers the slots of videos in the folder `<path>.parts`, until `finish` makes the file `path` of them.

    One process calls `begin` before, and `finish` after, all processes `add`. A video that was added stays, even
    through kill -9, and the next writer of the same provenance goes on from there. `path` ends in .h5, or in .pkl for
    the originals' pickle (protocol 2), which is built in memory and described by a file `<path>.json`.
    """

    def __init__(self, path: Path, provenance: Provenance):
        if path.suffix not in (HDF5, PICKLE):
            raise DataError(f"{path}: expected a name that ends in {HDF5}, or in {PICKLE} for the original's format")
        self.path = path
        self.provenance = provenance
        self.folder = path.with_name(f"{path.name}.parts")
        self._lock: IO | None = None

    def is_done(self, videos: Mapping[str, Sequence[str]]) -> bool:
        """Whether the file is there, of this provenance and with these videos of every split."""
        made_by = self._made_by() if self.path.is_file() else None
        return made_by is not None and not self._complete(videos).differences(made_by)

    def begin(self) -> None:
        """Claim the folder. DataError if another run is at work there, or has left results of another provenance."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = occupy(self.folder)
        if self._lock is None:
            raise DataError(f"{self.folder}: another process extracts slots there. Wait for it, or stop it")
        self.provenance.claim(self.folder)

    def has(self, split: str, name: str) -> bool:
        return self._part(split, name).exists()

    def add(self, split: str, name: str, slots: Slots) -> None:
        save_array(self._part(split, name), slots)

    def finish(self, videos: Mapping[str, Sequence[str]]) -> None:
        """Write the file with these videos of every split, all of which were added, and remove the folder."""
        complete = self._complete(videos)
        made_by = complete.to_dict()
        if self.path.suffix == PICKLE:
            self._description.unlink(missing_ok=True)  # it may describe an older file
            splits = {split: {name: self._load(split, name) for name in names} for split, names in videos.items()}
            with replacing(self.path, durable=True) as partial, partial.open("wb") as file:
                pickle.dump(splits, file, protocol=2)
            write_provenance(self._description, complete)
        else:
            attributes = {key: str(made_by[key]) for key in ("weight", "weight_sha256") if key in made_by}
            write_h5(self.path, self._all(videos), {**attributes, "provenance": json.dumps(made_by)})
        self.remove_parts()
        if self._lock:
            self._lock.close()

    def remove_parts(self) -> None:
        """Once the file is done: a process that was killed may have left them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _complete(self, videos: Mapping[str, Sequence[str]]) -> Provenance:
        """The provenance of the whole file."""
        names = json.dumps({split: sorted(names) for split, names in videos.items()})
        decisive = {**self.provenance.decisive, "videos_sha256": hashlib.sha256(names.encode()).hexdigest()}
        return Provenance(decisive, self.provenance.remarks)

    @property
    def _description(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def _made_by(self) -> dict[str, Any] | None:
        if self.path.suffix == PICKLE:
            return read_provenance(self._description)
        try:
            with h5py.File(self.path, "r") as file:
                return json.loads(file.attrs.get("provenance", "{}"))
        except (OSError, ValueError):  # damaged: it is replaced
            return None

    def _part(self, split: str, name: str) -> Path:
        return self.folder / split / f"{name}.npy"

    def _all(self, videos: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, Slots]]:
        for split, names in videos.items():
            for name in names:
                yield split, name, self._load(split, name)

    def _load(self, split: str, name: str) -> Slots:
        path = self._part(split, name)
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}). Remove it if it is there, and start again") from error
