"""The folder of an evaluation: finished results, scores of single samples, and rows of what is not finished."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from core.data.errors import DataError
from core.files import replacing

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Rows:
    """Scores of samples of one pair, a JSON line each; every process has a file of its own and reads all.

    stamp: of what the scores are computed from and with; rows of another one are not read.
    """

    folder: Path
    key: str
    stamp: str
    process: int

    @property
    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.key}-{self.stamp}.*.jsonl"))

    def add(self, indices: Sequence[int], scores: Mapping[str, Float[Tensor, " n"]]) -> None:
        """Append the samples of a batch; a killed process leaves at most its last line half-written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        columns = {name: values.tolist() for name, values in scores.items()}
        path = self.folder / f"{self.key}-{self.stamp}.{self.process}.jsonl"
        torn = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a") as file:
            if torn:
                file.write("\n")
            for place, index in enumerate(indices):
                values = {name: None if math.isnan(of[place]) else of[place] for name, of in columns.items()}
                file.write(json.dumps({"index": int(index), "scores": values}) + "\n")

    def known(self) -> dict[int, dict[str, float]]:
        """The scores of all samples that any process has written, NaN for those without a value."""
        found: dict[int, dict[str, float]] = {}
        for path in self._files:
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # what a killed process left
                found[row["index"]] = {
                    name: math.nan if value is None else value for name, value in row["scores"].items()
                }
        return found

    def remove(self) -> None:
        """Of all processes and stamps."""
        _remove_rows(self.folder, self.key)


def _remove_rows(folder: Path, key: str) -> None:
    for path in folder.glob(f"{key}-*.jsonl"):
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


@dataclass(frozen=True)
class Results:
    """`results.jsonl` and what belongs to it; see core.benchmark.evaluation."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / RESULTS

    def read(self) -> dict[str, dict[str, Any]]:
        """All results by their keys. DataError for a file that is damaged."""
        if not self.path.exists():
            return {}
        results = {}
        for number, line in enumerate(self.path.read_text().splitlines(), 1):
            try:
                result = json.loads(line)
                results[result["key"]] = result
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self.path}: line {number} is no result of an evaluation ({error}). Remove the line, or write to "
                    "another folder with --out"
                ) from error
        return results

    def add(self, result: Mapping[str, Any]) -> None:
        """Add a result, or replace that of the same key; a reader finds the old file or the new one."""
        self._write({**self.read(), result["key"]: result})

    def forget(self, keys: Sequence[str]) -> None:
        """Remove the results of these keys, and the rows of those that are not finished."""
        known = self.read()
        if kept := {key: result for key, result in known.items() if key not in keys}:
            self._write(kept)
        elif known:
            self.path.unlink()
        for key in keys:
            _remove_rows(self._rows, key)

    def _write(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        with replacing(self.path) as partial:
            partial.write_text("".join(json.dumps(entry, allow_nan=False) + "\n" for entry in results.values()))

    @property
    def _rows(self) -> Path:
        return self.folder / "partial"

    def rows(self, key: str, stamp: str, process: int) -> Rows:
        return Rows(self._rows, key, stamp, process)

    def samples_of(self, key: str) -> Path:
        return self.folder / "samples" / f"{key}.npz"

    def write_samples(self, key: str, indices: Int64[np.ndarray, " n"], scores: Mapping[str, np.ndarray]) -> None:
        """The scores of single samples."""
        with replacing(self.samples_of(key)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, index=indices, **scores)
