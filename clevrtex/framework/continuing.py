"""Where a run works, what it goes on from, and whether it may."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator

from clevrtex import original
from clevrtex.framework import folders
from clevrtex.framework.options import Hyperparameters, RunOptions
from core.data.spec import DataSpec
from core.training.checkpoint import CheckpointError, State, config_differences

IDENTITY, CONDITIONS = "hparams", "conditions"
"""Entries of a checkpoint."""


@dataclass(frozen=True)
class Plan:
    """What the processes of a run agree upon: its folder, and the checkpoint that it goes on from, if any."""

    folder: Path
    checkpoint: Path | None = None


def make_plan(hparams: Hyperparameters, options: RunOptions, is_shared: bool) -> Plan:
    """Where to work, and what to go on from. Raises CheckpointError for a checkpoint that is not there."""
    root = Path(options.dir) if options.dir else folders.OUTPUT
    name = experiment_name(hparams)
    checkpoint = None
    if options.resume is None:
        checkpoint = folders.unfinished_run(root, name, plain(hparams))
    elif options.resume is True:
        checkpoint = folders.newest_of(root, name)
        if checkpoint is None:
            print(f"--resume: no checkpoint of {root / name} yet, starting anew")
    elif options.resume is not False:
        path = Path(options.resume)
        checkpoint = path if path.suffix == ".ckpt" else folders.newest_checkpoint(path)
        if checkpoint is None or not checkpoint.is_file():
            raise CheckpointError(f"--resume {options.resume}: no such checkpoint, nor a folder with one")
    if checkpoint is not None:
        return Plan(folders.folder_of(checkpoint), checkpoint)
    return Plan(folders.fresh_folder(root, name, is_shared))


def experiment_name(hparams: Hyperparameters) -> str:
    """`<data>/<model>/<tag>`."""
    architecture = f"{hparams.archid}-" if getattr(hparams, "archid", None) else ""
    return f"{DataSpec.parse(hparams.data)}/{hparams.name}/{architecture}{hparams.tag}"


def plain(hparams: Hyperparameters) -> dict[str, Any]:
    """Builtin values, as YAML gives them back."""
    return yaml.safe_load(yaml.safe_dump(asdict(hparams)))


def conditions(hparams: Hyperparameters, options: RunOptions, num_processes: int) -> dict[str, Any]:
    """What changes what is learnt besides hyperparameters: two processes train what one trains with both batches."""
    return {
        "weights": options.weights,
        "limit": options.limit,
        "data_root": options.data_root,
        "precision": precision_of(options),
        "batch_size x acc x processes": hparams.batch_size * (options.acc or 1) * num_processes,
    }


def resumed(
    hparams: Hyperparameters,
    found: tuple[Path, State],
    options: RunOptions,
    given: set[str],
    accelerator: Accelerator,
) -> Hyperparameters:
    """The hyperparameters to go on with: the checkpoint's, but for the flags of this command.

    Raises CheckpointError for a checkpoint of another model or optimiser, and for a run that would go on by itself
    under other conditions.
    """
    path, state = found
    if IDENTITY not in state:
        what = "of the original code" if original.is_original(state) else "no state of a training"
        raise CheckpointError(f"{path}: {what}, which cannot be continued. Start from its weights: --weights {path}")
    model = state["run"]["arguments"]["path"]
    if model != hparams.model:
        theirs, ours = (name.partition(":")[2] for name in (model, hparams.model))
        raise CheckpointError(f"{path}: that is a run of {theirs}, not of {ours}. Continue it with its own command")
    saved = state[IDENTITY]
    if options.with_hparams:
        own = {entry.name for entry in fields(hparams)}
        kept = {name: value for name, value in saved.items() if name in own and name not in given}
        hparams = type(hparams)(**{**asdict(hparams), **kept})
    differences = config_differences(saved, plain(hparams))
    if any(line.startswith("optim:") for line in differences):
        raise CheckpointError(
            f"{path}: holds the state of --optim {saved['optim']}, which no other optimiser can go on with. Leave "
            f"--optim as it was, or start from the weights: --resume False --weights {path}"
        )
    current = conditions(hparams, options, accelerator.num_processes)
    others = config_differences(state.get(CONDITIONS, current), current)  # a state of an earlier version has none
    if others and options.resume is None:
        raise CheckpointError(
            f"{path}: of an unfinished run of this command with other options:\n  " + "\n  ".join(others) + "\nGive "
            "the same options, --resume True to go on with these, or --resume False to start anew"
        )
    if accelerator.is_main_process and (differences or others):
        print("Continuing with other hyperparameters:\n  " + "\n  ".join([*differences, *others]))
    return hparams


def precision_of(options: RunOptions) -> str:
    """What `make_accelerator` takes."""
    if not options.amp:
        return options.precision
    return "fp16" if torch.cuda.is_available() else "bf16"
