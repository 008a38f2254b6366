"""Checkpoints that are complete or absent, hold only tensors and builtin types, and are never lost to a bad write."""

import glob
import io
import os
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Any]


class CheckpointError(Exception):
    """A checkpoint cannot be written, read or used; the message names the file and says what to do."""


def save(path: Path, state: State) -> None:
    """Write `state` to `path` so that a reader, at any moment and after any crash, finds the old file or the new one.

    Serialised in memory, written to a sibling file, synced, renamed. On failure the sibling goes and `path` stays.
    """
    _assert_admissible(state, "state")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or error}). Older checkpoints in {path.parent} are untouched. "
            "Make room and start the same command: it continues from the newest one"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _assert_admissible(value: Any, where: str) -> None:
    """What `load` will not admit must not be written: subclasses of builtin types count as foreign."""
    if isinstance(value, Mapping):
        assert type(value) in (dict, OrderedDict), f"{where} is a {type(value).__name__}"
        for key, entry in value.items():
            _assert_admissible(key, f"a key of {where}")
            _assert_admissible(entry, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, entry in enumerate(value):
            _assert_admissible(entry, f"{where}[{index}]")
    else:
        allowed = (Tensor, nn.Parameter, str, int, float, bool, type(None), bytes)
        assert type(value) in allowed, f"{where} is a {type(value).__name__}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: Path) -> State:
    """Read a checkpoint to the CPU. Every byte is checked first; only tensors and builtin types are admitted."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint.{_what_is_beside(path)}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # A record marked as a folder passes every check, but torch leaves its tensor uninitialised.
                folders = [record.filename for record in archive.infolist() if record.external_attr & 0x10]
                damaged = folders[0] if folders else archive.testzip()
            if damaged:
                raise CheckpointError(f"{path}: damaged in {damaged}.{_what_is_beside(path)}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch and zipfile raise many kinds on a damaged file
        reason = str(error).split("\n")[0].split(". ")[0]  # without torch's advice to trust the file
        if foreign := re.search(r"GLOBAL (\S+)", str(error)):
            reason = f"it names {foreign[1]}"
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({type(error).__name__}: {reason}). It is damaged, or holds "
            f"more than tensors and builtin types.{_what_is_beside(path)}"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, no checkpoint.{_what_is_beside(path)}")
    return state


def _what_is_beside(path: Path) -> str:
    others = sorted((other for other in path.parent.glob(f"*{path.suffix}") if other != path), key=_step_of)
    return f" The newest other checkpoint beside it is {others[-1].name}" if others else " There is no other beside it"


def _step_of(path: Path) -> int:
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else -1


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run: `<prefix><step><suffix>` in `folder`, of which the newest `keep` stay (None: all)."""

    folder: Path
    prefix: str
    suffix: str = ".pth"
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 1:
            raise ValueError(f"keep={self.keep}: expected at least 1 checkpoint, or None for all")

    def path(self, step: int) -> Path:
        return self.folder / f"{self.prefix}{step}{self.suffix}"

    def steps(self) -> list[int]:
        """Steps that have a file, oldest first."""
        name = re.compile(re.escape(self.prefix) + r"(\d+)" + re.escape(self.suffix))
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        matches = (name.fullmatch(path.name) for path in files)
        return sorted(int(match.group(1)) for match in matches if match)

    def save(self, step: int, state: State) -> Path:
        """Write the checkpoint of `step`; only then remove those that are too old.

        Later ones, which a run that fell back behind a damaged file finds before it, are not counted.
        """
        save(self.path(step), state)
        if self.keep is not None:
            for old in [other for other in self.steps() if other <= step][: -self.keep]:
                self.path(old).unlink(missing_ok=True)
        return self.path(step)

    def newest(self) -> tuple[Path, State] | None:
        """The newest readable checkpoint. A damaged one is named in a warning and stays where it is."""
        for path, state in self._readable():
            return path, state
        return None

    def _readable(self) -> Iterator[tuple[Path, State]]:
        for step in reversed(self.steps()):
            try:
                yield self.path(step), load(self.path(step))
            except CheckpointError as error:
                warnings.warn(f"{error}. Falling back to an older checkpoint", stacklevel=3)

    def remove_partial_files(self) -> None:
        """Clear away what a killed process left half-written."""
        for path in self.folder.glob(f".{glob.escape(self.prefix)}*{self.suffix}.*.partial"):
            path.unlink(missing_ok=True)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Strictly load `state`; the error lists what differs and where the weights came from."""
    wanted = model.state_dict()
    problems = [f"missing: {key} {list(wanted[key].shape)}" for key in wanted.keys() - state.keys()]
    problems += [f"not in the model: {key} {list(state[key].shape)}" for key in state.keys() - wanted.keys()]
    problems += [
        f"{key}: {list(state[key].shape)} in the file, {list(wanted[key].shape)} in the model"
        for key in wanted.keys() & state.keys()
        if state[key].shape != wanted[key].shape
    ]
    if problems:
        shown = "\n  ".join(sorted(problems)[:12])
        more = f"\n  and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise CheckpointError(
            f"{source}: the weights are not those of this {type(model).__name__}:\n  {shown}{more}\n"
            "Use the configuration that the weights were trained with"
        )
    model.load_state_dict(state)


def config_differences(saved: Mapping[str, Any], current: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every leaf that differs between two nested configurations."""
    lines = []
    for key in sorted({*saved, *current}):
        old, new = saved.get(key), current.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += config_differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old!r} -> {new!r}")
    return lines
