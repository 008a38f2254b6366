"""A trained model on disk, and how any tool opens it again."""

import importlib
import json
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.files import replacing
from core.training.checkpoint import CheckpointError, CheckpointFolder, State, load, load_weights


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` says: how to build the model, and on which data, from which seed and by what it was trained.

    `builder` is "package.module:function"; called with `arguments` (builtin values) it returns the untrained model.
    """

    paper: str
    builder: str
    arguments: dict[str, Any]
    data: dict[str, Any]
    seed: int
    checkpoints: dict[str, str] = field(default_factory=dict)
    """`folder` (relative to the record), `prefix` and `suffix` of the checkpoint files, or `file`, the newest one."""
    inputs: dict[str, Any] | None = None
    """What a model that decomposes its data sees: `kind` ("images", "videos" or "views") and `size` [height, width].

    Empty for other models (autoencoders of words, read-outs, dynamics of slots); None in records without it.
    """
    source: dict[str, Any] = field(default_factory=dict)
    """Of weights that were imported (core/imported.py): `paper`, `file`, its `sha256`, and whether the model computes
    `as_original`. Empty for those trained here.
    """
    versions: dict[str, str] = field(default_factory=lambda: _versions())
    commit: str = field(default_factory=lambda: _commit())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def write(self, path: Path) -> None:
        """Write the record as JSON; a reader finds the old file or the new one."""
        with replacing(path) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunRecord":
        return cls(**values)

    def build(self) -> nn.Module:
        """The untrained model."""
        module, _, function = self.builder.partition(":")
        builder: Callable[..., nn.Module] = getattr(importlib.import_module(module), function)
        model = builder(**self.arguments)
        if not isinstance(model, nn.Module):
            raise TypeError(f"{self.builder} returned {type(model).__name__}, not an nn.Module")
        return model


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[nn.Module, RunRecord]:
    """Rebuild a trained model, in evaluation mode, from a checkpoint file or a run folder's newest checkpoint.

    A run folder is one that holds `run.json` (or one `*.run.json`), itself or in `weights/`. Raises CheckpointError.
    """
    model, record = rebuild(newest_state(path)[1], path)
    return model.to(device), record


def newest_state(path: str | Path) -> tuple[Path, State]:
    """A checkpoint file, or the newest one of a run folder as above, and its content. Raises CheckpointError."""
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    return (path, load(path)) if path.is_file() else _newest(path)


def rebuild(state: Mapping[str, Any], path: str | Path) -> tuple[nn.Module, RunRecord]:
    """The trained model, in evaluation mode, from the content of the checkpoint `path`. Raises CheckpointError."""
    if "run" not in state:
        raise CheckpointError(
            f"{path}: holds no run record, so its model is unknown. Open it with its paper's own script"
        )
    record = _record(state["run"], Path(path))
    try:
        model = record.build()
    except (ImportError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its model cannot be built by {record.builder} ({error}). Use the code that it was trained with"
            + (f", commit {record.commit}" if record.commit else "")
        ) from error
    load_weights(model, state["model"], path)
    return model.eval(), record


def _newest(folder: Path) -> tuple[Path, State]:
    records = [*folder.glob("run.json"), *folder.glob("*.run.json"), *folder.glob("weights/*.run.json")]
    if len(records) != 1:
        found = ", ".join(str(record.relative_to(folder)) for record in records) or "none"
        raise CheckpointError(f"{folder}: expected one run.json, found {found}. Give a checkpoint file instead")
    where = _record(records[0].read_text(), records[0]).checkpoints
    if "file" in where:
        file = records[0].parent / where["file"]
        return file, load(file)
    if missing := {"folder", "prefix", "suffix"} - where.keys():
        raise CheckpointError(f"{records[0]}: `checkpoints` lacks {', '.join(missing)}. Give a checkpoint file instead")
    files = CheckpointFolder(records[0].parent / where["folder"], where["prefix"], where["suffix"])
    newest = files.newest()
    if newest is None:
        raise CheckpointError(f"{files.folder}: no readable checkpoint {files.prefix}<step>{files.suffix} yet")
    return newest


def _record(values: str | Mapping[str, Any], source: Path) -> RunRecord:
    """The record in `values`, or in their JSON."""
    try:
        return RunRecord.from_dict(json.loads(values) if isinstance(values, str) else values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: not a run record ({error}). Give a checkpoint file instead") from error


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def _commit() -> str:
    """The git commit of this code, with "+" if the working tree differs; "" outside a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=here, capture_output=True, text=True, check=False, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    return commit + "+" if commit and git("status", "--porcelain", "--untracked-files=no") else commit
