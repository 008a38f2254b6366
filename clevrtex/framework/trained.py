"""Trained models as an evaluation finds them: in run folders, or in checkpoint files, ours or the original code's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clevrtex import original
from clevrtex.framework.catalogue import EXPERIMENTS, experiment_class
from clevrtex.framework.folders import BEST, CHECKPOINTS, LAST
from clevrtex.framework.options import Hyperparameters, fill
from clevrtex.models import build_model
from core.data.spec import DataSpec
from core.runs import rebuild
from core.training.checkpoint import CheckpointError, load_weights

RESULTS = "evaluation"
BATCH_SIZE = 32  # where the checkpoint has lost its hyperparameters


@dataclass(frozen=True)
class Trained:
    """A trained model in evaluation mode, and what its checkpoint says of it.

    name: of the model in folders, `slota`, `iodine`, ...
    results: path that the names of all files about it begin with
    data: string of the data that it was trained on, found below `data_root`, None being the usual folders
    steps: how many optimiser steps it was trained, None if unknown
    masks_have_background: False for models whose masks show objects only
    is_original: weights of the original code; the model computes what it computes, mistakes included
    """

    model: nn.Module
    name: str
    checkpoint: Path
    results: Path
    image_size: tuple[int, int]
    data: str
    data_root: str | None
    seed: int
    batch_size: int
    steps: int | None
    masks_have_background: bool
    is_original: bool = False

    def describe(self) -> dict[str, Any]:
        """What results say about it, ready for JSON."""
        return {
            "model": self.name,
            "checkpoint": str(self.checkpoint),
            "steps": self.steps,
            "trained_on": self.data,
            "seed": self.seed,
            "weights": "original" if self.is_original else "ours",
        }


def open_trained(
    path: str | Path, device: torch.device, which: str | None = None, experiment: str | None = None
) -> Trained:
    """The model in a run folder or a checkpoint file.

    which: `best` or `last`, the checkpoint of a folder; by default the best one, and the last one if there is none.
    experiment: of which model a checkpoint of the original code is: `slota`, `iodine`, ...; others say so themselves.

    Raises CheckpointError where there is no checkpoint, or one of another model, and ValueError for an `experiment`
    that there is not.
    """
    expected = experiment_class(experiment) if experiment else None
    path = Path(path)
    checkpoint = find_checkpoint(path, which)
    results = path / RESULTS if path.is_dir() else path.with_name(f"{path.stem}-{RESULTS}")
    state = original.read(checkpoint)
    if original.is_original(state):
        if experiment is None:
            raise CheckpointError(
                f"{checkpoint}: of the original code, which does not write down of which model. Say so with "
                f"--experiment, one of {', '.join(EXPERIMENTS)}"
            )
        return _of_original(state, experiment, checkpoint, results, device)
    model, record = rebuild(state, checkpoint)
    kind = next(
        (kind for kind in map(experiment_class, EXPERIMENTS) if kind.model == record.arguments.get("path")), None
    )
    if kind is None or (expected or kind) is not kind:
        found = record.arguments.get("path", record.builder)
        wanted = f"of --experiment {experiment}" if expected else f"of one of {', '.join(EXPERIMENTS)}"
        raise CheckpointError(f"{checkpoint}: expected a model {wanted}, found {found}")
    return Trained(
        model=model.to(device),
        name=kind.name,
        checkpoint=checkpoint,
        results=results,
        image_size=tuple(record.arguments["arguments"]["image_size"]),
        data=record.data["spec"],
        data_root=record.data["root"],
        seed=record.seed,
        batch_size=state.get("hparams", {}).get("batch_size", BATCH_SIZE),
        steps=state["step"] + 1 if "step" in state else None,
        masks_have_background=kind.masks_have_background,
        is_original=bool(record.source),
    )


def find_checkpoint(path: Path, which: str | None = None) -> Path:
    """`path` itself if it is a file, else a checkpoint of that run folder; see `open_trained`."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such run folder or checkpoint")
    folder = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
    names = (BEST, LAST) if which is None else (f"{which}.ckpt",)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    there = ", ".join(sorted(file.name for file in folder.glob("*.ckpt"))) or "no checkpoint"
    raise CheckpointError(
        f"{path}: expected {' or '.join(names)} in {folder}, found {there}. Give the folder of a run that has saved "
        "one, or a checkpoint file"
    )


def _of_original(
    state: Mapping[str, Any], experiment: str, checkpoint: Path, results: Path, device: torch.device
) -> Trained:
    kind = experiment_class(experiment)
    hparams: Hyperparameters = fill(kind, state.get("hyper_parameters", {}))
    image_size = DataSpec.parse(hparams.data).shape[1:]
    model = build_model(kind.model, hparams.model_arguments(image_size))
    if hasattr(model, "as_original"):
        model.as_original = True
    load_weights(model, original.original_weights(state, experiment, checkpoint), checkpoint)
    return Trained(
        model=model.to(device).eval(),
        name=kind.name,
        checkpoint=checkpoint,
        results=results,
        image_size=image_size,
        data=hparams.data,
        data_root=None,
        seed=hparams.seed if isinstance(hparams.seed, int) else 0,
        batch_size=hparams.batch_size,
        steps=state.get("global_step"),
        masks_have_background=kind.masks_have_background,
        is_original=True,
    )
