"""What the files of a run, and of its evaluations, say about it; no model is built here."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.data.errors import DataError
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, load

MOST_POINTS = 600
"""Of one curve; of a longer one, the means of equally many neighbours are drawn."""
SCALARS = "scalars.jsonl"
UNTELLING = ("checkpoint", "checkpoints", "models", "run", "runs", "test", "weights")
"""Names that say nothing of a run without the folder above."""
SHOWN_OF_RESULTS = ("data", "model", "paper", "steps", "num_samples", "scores", "not_applicable")


@dataclass(frozen=True)
class Curve:
    """Values of one scalar over the steps of a training, None where one is not finite."""

    steps: list[float]
    values: list[float | None]
    per_point: int = 1
    """How many logged values a point is the mean of."""

    def to_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values, "perPoint": self.per_point}


@dataclass(frozen=True)
class CollectedRun:
    """A run as the page shows it; `missing` says in a sentence what could not be shown, and why."""

    name: str
    path: Path
    record: RunRecord
    steps: int | None
    curves: dict[str, Curve]
    missing: list[str] = field(default_factory=list)
    model: str | None = None
    """Its short name, known where the model could be built."""
    weight: Path | None = None
    """The file that it was built from."""

    @property
    def trained_on(self) -> str:
        """A name of the data, as far as the record has one."""
        data = self.record.data
        return str(next((data[key] for key in ("spec", "dataset", "h5_path") if data.get(key)), ""))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "path": str(self.path),
            "model": self.model,
            "data": self.trained_on,
            "steps": self.steps,
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
            "record": self.record.to_dict(),
            "missing": self.missing,
        }


def collect_runs(paths: Sequence[Path]) -> tuple[list[CollectedRun], list[str]]:
    """The runs that can be read, and an error with its remedy for each that cannot.

    A path is a run folder, the folder of its weights, or a checkpoint file. One that is given twice counts once.
    """
    runs, errors = [], []
    paths = list({path.resolve(): path for path in paths}.values())
    for name, path in zip(names_of(paths), paths):
        try:
            runs.append(collect_run(name, path))
        except (CheckpointError, DataError, OSError) as error:
            errors.append(str(error))
    return runs, errors


def collect_run(name: str, path: Path) -> CollectedRun:
    """Record and curves of a run. CheckpointError where there is no record, or none that can be read."""
    record, prefix = find_record(path)
    missing, curves, steps = [], {}, None
    file = find_scalars(path, prefix)
    if file is None:
        missing.append(f"No curves: there is no {SCALARS} in the folder of this run.")
    else:
        curves, steps = read_curves(file)
        if not curves:
            missing.append(f"No curves: {file.name} holds no values yet.")
    return CollectedRun(name, path, record, steps, curves, missing)


def names_of(paths: Sequence[Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart and say something, such as `space/test`."""
    names = []
    for path in paths:
        own, others = path.resolve().parts, [other.resolve().parts for other in paths if other != path]
        length = 1
        while length < len(own) and (
            own[-length] in UNTELLING or any(own[-length:] == other[-length:] for other in others)
        ):
            length += 1
        names.append("/".join(own[-length:]))
    return names


def find_record(path: Path) -> tuple[RunRecord, str | None]:
    """The run record of a folder or checkpoint file, and the name of its run where several share a folder."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder. Give a run folder, or a checkpoint file")
    if path.is_file():
        state = load(path)
        if "run" not in state:
            raise CheckpointError(f"{path}: holds no run record. Open it with its paper's own script")
        return _record(state["run"], path), _before_number(path.stem)
    files = [file for folder in _folders_of(path) for file in _records_in(folder)]
    files = list(dict.fromkeys(files))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise CheckpointError(
            f"{path}: expected one run record (run.json, or NAME.run.json), found {found}. "
            "Give the folder that a training wrote, or a checkpoint file in it"
        )
    (file,) = files
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file}: not readable ({error}). Give a checkpoint file of the run instead") from error
    return _record(values, file), None if file.name == "run.json" else file.name.removesuffix(".run.json")


def _records_in(folder: Path) -> list[Path]:
    return sorted([*folder.glob("run.json"), *folder.glob("*.run.json"), *folder.glob("weights/*.run.json")])


def _folders_of(path: Path) -> list[Path]:
    """The folder, and where it is one of weights (`models`, `checkpoints`, `weights`) the one above it, too."""
    is_weights = path.resolve().name in ("models", "checkpoints", "weights")
    return [path, path.resolve().parent] if is_weights and not _records_in(path) else [path]


def _record(values: Any, source: Path) -> RunRecord:
    try:
        return RunRecord.from_dict(values)
    except TypeError as error:
        raise CheckpointError(
            f"{source}: not a run record ({error}). Use the code that the run was trained with"
        ) from error


def _before_number(stem: str) -> str:
    """`tiny` of `tiny-state-5`, as EfficientMORL names the files of a run."""
    return stem.partition("-state-")[0]


def find_scalars(path: Path, name: str | None) -> Path | None:
    """The newest record of scalars of a run: beside its `run.json`, or in `tb/NAME_<time>/` beside its weights."""
    start = path.resolve() if path.is_dir() else path.resolve().parent
    for folder in (start, *start.parents[:2]):
        if (folder / SCALARS).exists():
            return folder / SCALARS
        found = list(folder.glob(f"tb/*/{SCALARS}"))
        own = [file for file in found if name and file.parent.name.startswith(f"{name}_")]
        if own or found:
            return max(own or found, key=lambda file: file.stat().st_mtime_ns)
        if (folder / "run.json").exists():
            break  # what lies above is of other runs
    return None


def read_curves(file: Path) -> tuple[dict[str, Curve], int | None]:
    """Every scalar of a record of `Tracker`, and the last step in it; a half-written last line is left out.

    DataError for another line that is none of its rows.
    """
    points: dict[str, tuple[list[float], list[float | None]]] = defaultdict(lambda: ([], []))
    last = None
    for row in _rows(file):
        last = row.pop("step")
        for name, value in row.items():
            if isinstance(value, int | float):
                steps, values = points[name]
                steps.append(last)
                values.append(float(value) if math.isfinite(value) else None)
    return {name: thinned(*curve) for name, curve in points.items()}, last


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    lines = file.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("expected an object with an integer `step`")
        except ValueError as error:
            if number == len(lines):
                return
            raise DataError(
                f"{file}: line {number} is damaged ({error}). Remove that line; the others are kept"
            ) from error
        yield row


def thinned(steps: list[float], values: list[float | None], most: int = MOST_POINTS) -> Curve:
    """At most `most` points: means of equally many neighbours, None where one of them is not finite."""
    size = -(-len(steps) // most) or 1
    if size == 1:
        return Curve(steps, values)
    groups = [slice(start, start + size) for start in range(0, len(steps), size)]
    means = [None if None in values[group] else sum(values[group]) / len(values[group]) for group in groups]
    return Curve([sum(steps[group]) / len(steps[group]) for group in groups], means, size)


def read_results(file: Path) -> list[dict[str, Any]]:
    """What tools/evaluate.py wrote, see core.benchmark.evaluation. DataError for a damaged file."""
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise DataError(
            f"{file}: not readable ({error.strerror}). Make it by `python tools/evaluate.py RUNS... --data SPEC`"
        ) from error
    results = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if missing := {"key", "run", "data", "scores"} - row.keys():
                raise ValueError(f"lacks {', '.join(sorted(missing))}")
        except (ValueError, AttributeError) as error:
            raise DataError(
                f"{file}: line {number} is no result of tools/evaluate.py ({error}). Remove that line, or repeat the "
                "evaluation into another file"
            ) from error
        results[row["key"]] = row
    return list(results.values())


def named_results(rows: Sequence[dict[str, Any]], runs: Sequence[CollectedRun]) -> list[dict[str, Any]]:
    """What the page shows of results, with the `name` that their run has on it, and whether it is `known` there."""
    names = {path.resolve(): run.name for run in runs for path in (run.path, run.weight) if path is not None}
    found = []
    for row in rows:
        weight = row.get("weight", {}).get("file", row["run"])
        known = names.get(Path(row["run"]).resolve()) or names.get(Path(weight).resolve())
        shown = {key: row[key] for key in SHOWN_OF_RESULTS if key in row}
        protocol = {key: row.get("protocol", {}).get(key) for key in ("split", "frames")}
        found.append({**shown, "protocol": protocol, "name": known or row["run"], "known": known is not None})
    return found
