"""Scores of a planner on disk, part by part.

A folder of results holds, for each part s, float64 arrays [tasks, actions], -100 outside the part:

    pred_conf-<s>.npy    how probable success is (-1 for an invalid action)
    pred_logit-<s>.npy   the same as a logit, by which actions are ranked: probabilities near 1 are equal in float64
    gt_status-<s>.npy    1 solved, -1 not solved, 0 invalid action

The first and the last are the original's; where the second is missing it is computed from the first.
"""

import shutil
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer
from scipy.special import expit, logit

from core.data.errors import DataError
from core.data.slot_writer import save_array
from core.files import occupy
from core.metrics.phyre import NOT_COMPUTED, merge_parts

CONFIDENCE, LOGIT, STATUS = "conf", "logit", "gt"
PART_NAMES = {CONFIDENCE: "pred_conf", LOGIT: "pred_logit", STATUS: "gt_status"}
Scores = Float64[np.ndarray, "tasks A"]


class PartWriter:
    """Gathers the logits of part `split` of the candidates, the numbers `part`, in the folder `<path>/part-<split>`.

    One process calls `begin` before, and `finish` after, all processes `add`. What was added stays, even through
    kill -9, and the next writer goes on from there. Raises DataError.
    """

    def __init__(self, path: Path, split: int, part: range, statuses: Integer[np.ndarray, "tasks A"]):
        self.path = path
        self.split = split
        self.part = part
        self.statuses = statuses
        self.folder = path / f"part-{split}"
        self._lock: IO | None = None

    def is_done(self) -> bool:
        """Whether the files of the part are there. DataError if they are those of another part."""
        if not all(self._file(kind).exists() for kind in PART_NAMES):
            return False
        found = _load(self._file(STATUS))
        if found.shape != self.statuses.shape or not np.array_equal(found, self._in_part(self.statuses)):
            raise DataError(
                f"{self._file(STATUS)}: another part, perhaps of another --total_split, than actions {self.part.start} "
                f"to {self.part.stop - 1}. Move the part's files away, or write to another folder with --save_path"
            )
        return True

    def begin(self) -> None:
        """Claim the part. DataError if another process is at work on it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = occupy(self.folder)
        if self._lock is None:
            raise DataError(f"{self.folder}: another process computes this part. Wait for it, or stop it")

    def numbers(self) -> Int64[np.ndarray, "_"]:
        """The candidates that were added."""
        return self._added()[0].astype(np.int64)

    def add(self, numbers: Int64[np.ndarray, "B"], logits: Float[np.ndarray, "B"]) -> None:
        save_array(self.folder / f"{numbers[0]:09d}.npy", np.stack([numbers, logits]).astype(np.float64))

    def finish(self) -> None:
        """Write the files of the part, all of whose valid actions were added, and remove the folder."""
        logits = np.full(self.statuses.size, -np.inf)
        numbers, added = self._added()
        logits[numbers.astype(np.int64)] = added
        logits, is_valid = logits.reshape(self.statuses.shape), self.statuses != 0
        assert len(numbers) == is_valid.flat[self.part.start : self.part.stop].sum()
        confidences = np.where(is_valid, expit(logits), -1.0)
        for kind, values in ((CONFIDENCE, confidences), (LOGIT, logits), (STATUS, self.statuses)):
            save_array(self._file(kind), self._in_part(values))
        self.remove_parts()
        if self._lock:
            self._lock.close()

    def remove_parts(self) -> None:
        """Once the part is done: a process that was killed may have left them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, kind: str) -> Path:
        return self.path / f"{PART_NAMES[kind]}-{self.split}.npy"

    def _in_part(self, values: np.ndarray) -> Scores:
        result = np.full(values.size, float(NOT_COMPUTED))
        result[self.part] = values.flat[self.part.start : self.part.stop]
        return result.reshape(values.shape)

    def _added(self) -> Float64[np.ndarray, "2 _"]:
        arrays = [_load(file) for file in sorted(self.folder.glob("*.npy"))]
        return np.concatenate(arrays, axis=1) if arrays else np.empty((2, 0))


def collect(folder: Path) -> dict[str, Scores]:
    """Put the parts in `folder` together, whatever they are called, and keep them as `all_<kind>.npy`.

    Raises DataError if there are none, if they do not fit together, or if actions are missing.
    """
    names = sorted(file.name.partition("-")[2] for file in folder.glob(f"{PART_NAMES[STATUS]}-*.npy"))
    if not names:
        raise DataError(
            f"{folder}: no {PART_NAMES[STATUS]}-<part>.npy there. --collect takes the folder of results, as a rule "
            "test/ beside the weight of the classifier"
        )
    parts = [_read_part(folder, name) for name in names]
    if len(shapes := {part[kind].shape for part in parts for kind in part}) > 1:
        raise DataError(f"{folder}: parts of {' and '.join(str(list(shape)) for shape in sorted(shapes))} actions")
    try:
        confidences, statuses = merge_parts([(part[CONFIDENCE], part[STATUS]) for part in parts])
        logits, _ = merge_parts([(part[LOGIT], part[STATUS]) for part in parts])
    except ValueError as error:
        raise DataError(f"{folder}: {error}") from error
    found = {CONFIDENCE: confidences, LOGIT: logits, STATUS: statuses}
    for kind, values in found.items():
        save_array(folder / f"all_{kind}.npy", values)
    return found


def _read_part(folder: Path, name: str) -> dict[str, Scores]:
    part = {kind: _load(folder / f"{PART_NAMES[kind]}-{name}") for kind in (CONFIDENCE, STATUS)}
    if (file := folder / f"{PART_NAMES[LOGIT]}-{name}").exists():
        return part | {LOGIT: _load(file)}
    is_valid = part[CONFIDENCE] >= 0
    return part | {LOGIT: np.where(is_valid, logit(np.where(is_valid, part[CONFIDENCE], 0.5)), -np.inf)}


def _load(file: Path) -> Float64[np.ndarray, "_ _"]:
    try:
        found = np.load(file, allow_pickle=False)
        if found.ndim != 2:
            raise ValueError(f"an array {list(found.shape)}")
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}). Remove it, and start its part again") from error
    return found.astype(np.float64)
