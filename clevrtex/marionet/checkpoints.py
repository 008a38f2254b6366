"""MarioNette's checkpoint files: `model/epoch_<n>.pth`, `model/training_end.pth`, and the same in `bg/`.

The files in `model/` hold everything and are what a training continues from. Those in `bg/` repeat the weights of the
dictionary of backgrounds, so that another training can start from them alone.
"""

from dataclasses import dataclass
from pathlib import Path

from core.files import same_file
from core.training.checkpoint import CheckpointError, CheckpointFolder, State

MODEL, BACKGROUND = "model", "bg"
PREFIX, SUFFIX, END = "epoch_", ".pth", "training_end.pth"
BACKGROUND_WEIGHTS = "background."
"""What their names begin with in the model."""


@dataclass
class EpochFiles:
    """The newest state of a run in `folder`, under the number of its epoch, and the last one of all."""

    folder: Path
    steps_per_epoch: int = 1
    last_step: int = 0

    def save(self, step: int, state: State) -> Path:
        """Write both files of the step's epoch, and those of the end after the last step."""
        epoch = step // self.steps_per_epoch
        extras = {"epoch": epoch + 1}
        background = {
            name.removeprefix(BACKGROUND_WEIGHTS): value
            for name, value in state["model"].items()
            if name.startswith(BACKGROUND_WEIGHTS)
        }
        files = {BACKGROUND: {"model": background, "step": step}} if background else {}
        for part, content in {**files, MODEL: state}.items():  # the model last: whoever finds it, finds both
            of_part = self._of(part)
            of_part.folder.mkdir(parents=True, exist_ok=True)
            path = of_part.save(epoch, {**content, "extras": extras})
            if step == self.last_step:
                same_file(path, of_part.folder / END)
        return self.path(epoch)

    def steps(self) -> list[int]:
        """Numbers of the epochs that have a file."""
        return self._of(MODEL).steps()

    def path(self, step: int) -> Path:
        return self._of(MODEL).path(step)

    def newest(self) -> tuple[Path, State] | None:
        """The state to continue from. Raises CheckpointError if there are files and none can be read."""
        found = self._of(MODEL).newest()
        if found is None and self.steps():
            raise CheckpointError(
                f"{self.path(self.steps()[-1])}: cannot be read, and there is no other. Start anew with another "
                "--checkpoint_dir"
            )
        return found

    def remove_partial_files(self) -> None:
        """Clear away what a killed process left half-written."""
        for part in (MODEL, BACKGROUND):
            for path in (self.folder / part).glob(f".*{SUFFIX}.*.partial"):
                path.unlink(missing_ok=True)

    def _of(self, part: str) -> CheckpointFolder:
        return CheckpointFolder(self.folder / part, PREFIX, SUFFIX, keep=1)


def find(path: Path) -> Path:
    """The checkpoint that `path` is, or the last one of the run in that folder. Raises CheckpointError."""
    if path.is_file():
        return path
    files = EpochFiles(path)
    end = path / MODEL / END
    if end.is_file():
        return end
    if not files.steps():
        raise CheckpointError(f"{path}: no checkpoint {MODEL}/{END} nor {MODEL}/{PREFIX}<n>{SUFFIX}")
    return files.path(files.steps()[-1])
