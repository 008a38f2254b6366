"""Runs made of weights that other code trained: read without running anything, described, and written as ours are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.files import replacing
from core.provenance import file_hash
from core.runs import RunRecord, rebuild
from core.training.checkpoint import CheckpointError, State, load, save

RECORD = "run.json"
NUMPY: list[Any] = [
    (np.ndarray, "numpy.ndarray"),
    (np.dtype, "numpy.dtype"),
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (np._core.multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in (np.uint32, np.float32, np.float64, np.int64)),
]
"""What pickled arrays and scalars name, in numpy's versions 1 and 2."""


def read_foreign(path: Path, stand_ins: Sequence[Any] = ()) -> State:
    """A checkpoint of any code: tensors, numpy arrays, builtin types, and `stand_ins` (class, its name in the file).

    Raises CheckpointError for anything else, which it names.
    """
    with torch.serialization.safe_globals([*NUMPY, *stand_ins]):
        return load(path)


@dataclass(frozen=True)
class ImportedRun:
    """What a paper makes of a checkpoint of its original code.

    record: of the run; its `checkpoints` lead to `file`.
    state: content of a checkpoint of ours without `run`: `model` and, as far as they are known, `step`, `optimizer`.
    file: path of the checkpoint in the run's folder.
    texts: further files there, such as the configuration.
    as_original: the model computes what the original does, mistakes included.
    notes: what deserves a second look.
    """

    record: RunRecord
    state: State
    file: str
    texts: Mapping[str, str] = field(default_factory=dict)
    as_original: bool = False
    notes: tuple[str, ...] = ()

    def write(self, folder: Path, source: Path) -> RunRecord:
        """Make the run's folder; returns its record, which names `source`, the original's file.

        The same import again replaces what it wrote. Raises CheckpointError where the weights are not those of the
        configured model, and for a folder that holds something else.
        """
        origin = {"paper": self.record.paper, "file": str(source), "sha256": file_hash(source)}
        record = replace(self.record, source=origin | {"as_original": self.as_original})
        state = _plain({**self.state, "run": record.to_dict()})
        rebuild(state, source)
        _claim(folder, origin)
        record.write(folder / RECORD)  # the claim of an import that is interrupted
        for name, text in self.texts.items():
            with replacing(folder / name) as partial:
                partial.write_text(text)
        (folder / self.file).parent.mkdir(parents=True, exist_ok=True)
        save(folder / self.file, state)
        return record


def _claim(folder: Path, origin: Mapping[str, str]) -> None:
    """Raises CheckpointError unless the folder is free, or of an import of the same weights."""
    try:
        found = json.loads((folder / RECORD).read_text()).get("source", {})
    except (OSError, ValueError, AttributeError):
        found = {}
    is_free = not folder.exists() or all(entry.name.startswith(".") for entry in folder.iterdir())
    if is_free or found.get("sha256") == origin["sha256"]:
        return
    what = f"holds an import of {found['file']}" if found else "is not empty"
    raise CheckpointError(f"{folder}: {what}. Give another --out, or move the folder away")


def _plain(value: Any) -> Any:
    """Builtin containers and numbers in place of their subclasses and of numpy's."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else list(map(_plain, value))
    if isinstance(value, np.generic):
        return value.item()
    return value.detach().contiguous() if isinstance(value, Tensor) else value
