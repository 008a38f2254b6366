"""The benchmark's checkpoint files: `last.ckpt`, and the best ones by the monitored value."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

from clevrtex.framework.folders import BEST, CHECKPOINTS, LAST
from core.files import same_file
from core.training.checkpoint import CheckpointError, State, load, save


@dataclass
class BestAndLast:
    """`checkpoints/last.ckpt` of a run, and `best.ckpt`, `best-v1.ckpt`, ... of its `save_top` best validations."""

    run: Path
    save_top: int = 1
    scores: list[float] = field(default_factory=list)
    """Of the best, ascending; goes into checkpoints."""
    _pending: float | None = None

    @property
    def folder(self) -> Path:
        return self.run / CHECKPOINTS

    def note(self, score: float) -> None:
        """The monitored value of the state that is saved next; the lower, the better. NaN is none."""
        worst = self.scores[self.save_top - 1] if len(self.scores) >= self.save_top else float("inf")
        self._pending = score if score < worst else None
        if self._pending is not None:
            self.scores[:] = sorted([*self.scores, score])[: self.save_top]

    def save(self, step: int, state: State) -> Path:
        self.folder.mkdir(exist_ok=True)
        save(self.folder / LAST, state)
        if self._pending is not None:
            self._keep(self.scores.index(self._pending))
            self._pending = None
        return self.folder / LAST

    def _keep(self, rank: int) -> None:
        """Put last.ckpt at that place among the best, and move those behind it on."""
        for place in range(self.save_top - 1, rank, -1):
            if self._best(place - 1).exists():
                self._best(place - 1).replace(self._best(place))
        same_file(self.folder / LAST, self._best(rank))

    def _best(self, place: int) -> Path:
        return self.folder / (BEST if place == 0 else f"best-v{place}.ckpt")

    def steps(self) -> list[int]:
        """Not empty if there is a checkpoint; which step it is of stands in the file."""
        return [0] if (self.folder / LAST).exists() else []

    def path(self, step: int) -> Path:
        return self.folder / LAST

    def remove_partial_files(self) -> None:
        """Clear away what a killed process left half-written."""
        for path in self.folder.glob(".*.ckpt.*.partial"):
            path.unlink(missing_ok=True)


def read(path: Path) -> tuple[Path, State]:
    """The checkpoint to go on from, or the best one beside it if `path` is a damaged last.ckpt.

    Raises CheckpointError, with the way out, if none can be read.
    """
    other = path.with_name(BEST)
    try:
        try:
            return path, load(path)
        except CheckpointError as error:
            if path.name != LAST or not other.exists():
                raise
            warnings.warn(f"{error}. Continuing from {other}", stacklevel=2)
            return other, load(other)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. Start anew with --resume False") from error
