"""The checkpoint files of a run: `model.pt`, `model_best.pt` and `model_<iterations done>.pt`, beside its config."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.files import same_file
from core.training.checkpoint import CheckpointError, CheckpointFolder, State, load, save

LAST, BEST = "model.pt", "model_best.pt"
SECTIONS = ("data", "model", "training")
"""Of the configuration in a checkpoint."""


def config_of(state: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]] | None:
    """The configuration that a checkpoint was trained with; None if it says nothing of it, as the original's.

    Raises CheckpointError if it is not one of OSRT.
    """
    if "config" not in state:
        return None
    config = state["config"]
    if not isinstance(config, Mapping) or not all(isinstance(config.get(name), Mapping) for name in SECTIONS):
        raise CheckpointError(
            f"{path}: a checkpoint of something else: its configuration lacks the sections {', '.join(SECTIONS)}. "
            "Move it to another folder"
        )
    return {name: dict(config[name]) for name in SECTIONS}


def iterations_of(state: Mapping[str, Any]) -> int:
    """How many iterations are done, by a checkpoint of ours or of the original."""
    return int(state.get("step", state.get("it", -1))) + 1


def _first_readable(paths: Iterable[Path]) -> tuple[Path, State] | None:
    for path in paths:
        try:
            if path.exists():
                return path, load(path)
        except CheckpointError as error:
            warnings.warn(f"{error}. Falling back to another checkpoint", stacklevel=3)
    return None


@dataclass
class RunFiles:
    """What is written to the folder of a run: the newest state, the best one, and one in `backup_every` iterations."""

    folder: Path
    backup_every: int = 0
    _is_best: bool = field(default=False, init=False)

    @property
    def backups(self) -> CheckpointFolder:
        return CheckpointFolder(self.folder, "model_", ".pt")

    def note_best(self) -> None:
        """The state that is saved next is the best so far."""
        self._is_best = True

    def save(self, step: int, state: State) -> Path:
        save(self.folder / LAST, state)
        self.complete(step + 1, self._is_best)
        self._is_best = False
        return self.folder / LAST

    def complete(self, iterations: int, is_best: bool) -> None:
        """Make sure that model.pt has the other names that it should have; a killed process may have left them out."""
        if is_best:
            same_file(self.folder / LAST, self.folder / BEST)
        if self.backup_every > 0 and iterations > 0 and iterations % self.backup_every == 0:
            same_file(self.folder / LAST, self.backups.path(iterations))

    def steps(self) -> list[int]:
        """Not empty if there is a checkpoint; which step it is of stands in the file."""
        return [0] if (self.folder / LAST).exists() else []

    def path(self, step: int) -> Path:
        return self.folder / LAST

    def to_resume(self, max_it: int) -> tuple[Path, State] | None:
        """That of `max_it` iterations, else the newest, else None. Raises CheckpointError if none can be read.

        In place of a damaged one, which is named in a warning, comes the newest other, be it a backup or the best.
        """
        last, others = self.folder / LAST, [self.backups.path(step) for step in reversed(self.backups.steps())]
        first = self.backups.path(max_it)
        if first.exists():
            others.remove(first)
        else:
            first = last
        if not first.exists():
            return None
        if found := _first_readable(dict.fromkeys((first, last))):
            return found
        found = [one for paths in (others, [self.folder / BEST]) if (one := _first_readable(paths))]
        if not found:
            raise CheckpointError(f"{self.folder}: no checkpoint can be read. Move model*.pt away to start afresh")
        return max(found, key=lambda one: iterations_of(one[1]))

    def remove_partial_files(self) -> None:
        """Clear away what a killed process left half-written."""
        for path in self.folder.glob(".*.partial"):
            path.unlink(missing_ok=True)
