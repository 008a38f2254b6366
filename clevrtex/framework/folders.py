"""Where the results of an experiment lie: `output/<data>/<model>/<tag>`, and how a run finds its earlier ones."""

import base64
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from core.files import occupy

OUTPUT = Path("output")
CHECKPOINTS = "checkpoints"
LAST, BEST = "last.ckpt", "best.ckpt"
SUCCESS, INTERRUPT = "SUCCESS", "INTERRUPT"
HPARAMS = "hparams.yaml"


def fresh_folder(root: Path, name: str, shared: bool) -> Path:
    """A folder that no run has had: `name`, else `name`_0, `name`_1, ...; `name`__id<x> if processes share it.

    On Slurm x is the job's number. A job that is started again before it has saved anything has its folder again.
    """
    root.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("SLURM_ARRAY_JOB_ID")
    if shared or job:
        own = f"{job}-{os.environ.get('SLURM_PROCID', 0)}" if job else None
        unique = own or base64.urlsafe_b64encode(uuid.uuid1().bytes).decode().rstrip("=")
        name = f"{name}__id{unique}"
    number = -1
    while True:
        folder = root / (name if number < 0 else f"{name}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            if job and _is_untouched(folder):  # a requeued job has its old number
                return folder
            number += 1


def _is_untouched(folder: Path) -> bool:
    """Whether a run there has saved nothing, has not ended, and no process works at it."""
    if (folder / SUCCESS).exists() or newest_checkpoint(folder):
        return False
    lock = occupy(folder)
    if lock:
        lock.close()
    return lock is not None


def runs_of(root: Path, name: str) -> list[Path]:
    """The folders of all runs of that name."""
    parent, tag = (root / name).parent, (root / name).name
    patterns = (tag, f"{tag}_[0-9]", f"{tag}_[0-9][0-9]", f"{tag}__id*")
    return [path for pattern in patterns for path in sorted(parent.glob(pattern)) if path.is_dir()]


def newest_checkpoint(folder: Path) -> Path | None:
    """The `.ckpt` file below `folder` or its `checkpoints/` that was written last."""
    found = [*folder.glob("*.ckpt"), *folder.glob(f"{CHECKPOINTS}/*.ckpt")]
    # A best one is a link to what was then the last.
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name == LAST), default=None)


def newest_of(root: Path, name: str) -> Path | None:
    """The newest checkpoint of all runs of that name."""
    found = [checkpoint for folder in runs_of(root, name) if (checkpoint := newest_checkpoint(folder))]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def unfinished_run(root: Path, name: str, hparams: Mapping[str, Any]) -> Path | None:
    """The checkpoint of a run of that name with these hyperparameters that did not end and that no process works at."""
    for folder in reversed(runs_of(root, name)):
        checkpoint = folder / CHECKPOINTS / LAST
        if not (folder / SUCCESS).exists() and checkpoint.exists() and read_hparams(folder) == hparams:
            lock = occupy(folder)
            if lock:
                lock.close()
                return checkpoint
    return None


def folder_of(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent


def read_hparams(folder: Path) -> dict[str, Any]:
    """What `hparams.yaml` says, nothing if it is not there or damaged."""
    try:
        return yaml.safe_load((folder / HPARAMS).read_text()) or {}
    except (OSError, yaml.YAMLError):
        return {}


def remove(folder: Path) -> None:
    """Take away a run's folder, and those above it that hold nothing else."""
    shutil.rmtree(folder)
    for parent in list(folder.parents)[:2]:
        try:
            parent.rmdir()
        except OSError:
            return


def finish(folder: Path, succeeded: bool) -> None:
    """Leave an empty file that says how the run ended."""
    (folder / (INTERRUPT if succeeded else SUCCESS)).unlink(missing_ok=True)
    (folder / (SUCCESS if succeeded else INTERRUPT)).touch()
