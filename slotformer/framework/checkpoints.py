"""Checkpoint files as SlotFormer's trainer names them: `model_<iterations>.pth` and `epoch/model_<epoch>.pth`."""

from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from core.files import same_file
from core.training.checkpoint import CheckpointFolder, State

PREFIX, SUFFIX = "model_", ".pth"
BEST = "best.pth"


@dataclass
class EpochFiles:
    """The newest `keep` checkpoints in `folder`, that of the best validation, and, if asked for, of every epoch.

    A file is named after the iterations done, of which a step is the last, counted from 0.
    """

    folder: Path
    steps_per_epoch: int
    save_interval: float = 1.0
    keeps_epochs: bool = False
    keep: int = 5
    _is_best: bool = field(default=False, init=False)

    @property
    def files(self) -> CheckpointFolder:
        return CheckpointFolder(self.folder, PREFIX, SUFFIX, self.keep)

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint comes after `step` of those within an epoch, whose end always has one."""
        place = step % self.steps_per_epoch + 1
        return place % (ceil(self.save_interval * self.steps_per_epoch) + 1) == 0 or place == self.steps_per_epoch

    def note_best(self) -> None:
        """The state that is saved next is the best so far."""
        self._is_best = True

    def save(self, step: int, state: State) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.files.save(step + 1, state)
        self.complete(step, self._is_best)
        self._is_best = False
        return path

    def complete(self, step: int, is_best: bool = False) -> None:
        """Make sure that the file of the epoch which `step` ends is there, and that the best is this one if it is.

        A killed process may have left them out.
        """
        if is_best:
            same_file(self.path(step), self.folder / BEST)
        epoch, rest = divmod(step + 1, self.steps_per_epoch)
        path = self.folder / "epoch" / f"{PREFIX}{epoch}{SUFFIX}"
        if self.keeps_epochs and not rest and not path.exists():
            same_file(self.path(step), path)

    def steps(self) -> list[int]:
        return [iterations - 1 for iterations in self.files.steps()]

    def path(self, step: int) -> Path:
        return self.files.path(step + 1)
