"""The checkpoint files of a run: `model.pt`, `model_best.pt` and `model_<iterations done>.pt`, beside its config."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

from core.files import same_file
from core.training.checkpoint import CheckpointError, CheckpointFolder, State, load, save

LAST, BEST = "model.pt", "model_best.pt"


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
        if self.backup_every > 0 and iterations % self.backup_every == 0:
            same_file(self.folder / LAST, self.backups.path(iterations))

    def steps(self) -> list[int]:
        """Not empty if there is a checkpoint; which step it is of stands in the file."""
        return [0] if (self.folder / LAST).exists() else []

    def path(self, step: int) -> Path:
        return self.folder / LAST

    def to_resume(self, max_it: int) -> tuple[Path, State] | None:
        """That of `max_it` iterations, else the newest, else None. Raises CheckpointError if none can be read.

        In place of a damaged one, which is named in a warning, comes the newest other.
        """
        last, others = self.folder / LAST, [self.backups.path(step) for step in reversed(self.backups.steps())]
        first = self.backups.path(max_it)
        if first.exists():
            others.remove(first)
        else:
            first = last
        if not first.exists():
            return None
        for path in dict.fromkeys((first, last, *others, self.folder / BEST)):
            try:
                if path.exists():
                    return path, load(path)
            except CheckpointError as error:
                warnings.warn(f"{error}. Falling back to an older checkpoint", stacklevel=2)
        raise CheckpointError(f"{self.folder}: no checkpoint can be read. Move model*.pt away to start afresh")

    def remove_partial_files(self) -> None:
        """Clear away what a killed process left half-written."""
        for path in self.folder.glob(".*.partial"):
            path.unlink(missing_ok=True)
