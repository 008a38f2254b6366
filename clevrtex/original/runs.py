"""Runs of ours from checkpoints of the original ClevrTex code."""

import ast
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from clevrtex import original
from clevrtex.framework.catalogue import EXPERIMENTS, experiment_class
from clevrtex.framework.folders import CHECKPOINTS, HPARAMS, LAST
from clevrtex.framework.options import Hyperparameters, fill
from clevrtex.original import marionette
from core.data.spec import DataSpec
from core.imported import ImportedRun
from core.runs import RunRecord
from core.spelling import nearest
from core.training.checkpoint import CheckpointError, State


def is_original(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a loaded checkpoint is Lightning's, or one of MarioNette's `model/`."""
    state = checkpoint.get("model")
    is_marionette = isinstance(state, Mapping) and any("im_encoder." in str(key) for key in state)
    return original.is_original(checkpoint) or is_marionette


def import_run(checkpoint: Mapping[str, Any], path: Path, config: str, settings: Sequence[str] = ()) -> ImportedRun:
    """A run of ours from a checkpoint of the original and the name of its experiment: `slota`, `iodine`, ...

    path: of the checkpoint, for messages, and where MarioNette's backgrounds lie beside it (`bg/<name>.pth`).
    settings: FLAG=VALUE of the training's command line; all others are those that the checkpoint has kept, or the
    experiment's defaults. The sizes of MarioNette are those of its weights, for its checkpoints keep no flags.

    The model computes what the original does, mistakes included. Raises ValueError and CheckpointError.
    """
    kind = experiment_class(config)
    hparams: Hyperparameters = fill(kind, {**checkpoint.get("hyper_parameters", {}), **_flags(kind, settings)})
    image_size = DataSpec.parse(hparams.data).shape[1:]
    arguments = hparams.model_arguments(image_size)
    if config == "marionette":
        weights = marionette.read_both(path)
        arguments |= marionette.arguments_of(weights, image_size[0])
        image_size = arguments["image_size"]
    elif original.is_original(checkpoint):
        weights = _weights(checkpoint, config, path)
    else:
        raise CheckpointError(f"{path}: expected a checkpoint of Lightning for {config}, found one of MarioNette")
    if as_original := "as_original" in inspect.signature(_class_of(kind)).parameters:
        arguments["as_original"] = True
    values = _plain(asdict(hparams))
    record = RunRecord(
        paper="clevrtex",
        builder="clevrtex.models:build_model",
        arguments={"path": kind.model, "arguments": _plain(arguments)},
        data={"spec": hparams.data, "root": None},
        seed=hparams.seed if isinstance(hparams.seed, int) else 0,
        checkpoints={"file": f"{CHECKPOINTS}/{LAST}"},
        inputs={"kind": "images", "size": list(image_size)},
    )
    state: State = {"model": weights, "hparams": values}
    if "global_step" in checkpoint:
        state["step"] = int(checkpoint["global_step"]) - 1
    text = yaml.safe_dump(values, sort_keys=False)
    return ImportedRun(record, state, f"{CHECKPOINTS}/{LAST}", {HPARAMS: text}, as_original)


def _weights(checkpoint: Mapping[str, Any], config: str, path: Path) -> dict[str, Any]:
    """Our weights. The CheckpointError of those of another experiment names it."""
    try:
        return original.original_weights(checkpoint, config, path)
    except CheckpointError as error:
        for other in EXPERIMENTS:
            if other not in (config, "marionette"):
                try:
                    original.original_weights(checkpoint, other, path)
                except (CheckpointError, RuntimeError, IndexError):
                    continue
                raise CheckpointError(f"{error}. It looks like one of {other}: --config {other}") from error
        raise


def _flags(kind: type[Hyperparameters], settings: Sequence[str]) -> dict[str, Any]:
    known = [entry.name for entry in fields(kind)]
    flags = {}
    for word in settings:
        name, equals, text = word.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if not equals or name not in known:
            raise ValueError(f"--set {word!r}: expected FLAG=VALUE of {kind.name}{nearest(name, known)}")
        try:
            flags[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            flags[name] = text
    return flags


def _class_of(kind: type[Hyperparameters]) -> type[nn.Module]:
    module, _, name = kind.model.partition(":")
    return getattr(importlib.import_module(f"clevrtex.models.{module}"), name)


def _plain(value: Any) -> Any:
    """Builtin values only, lists for tuples."""
    return yaml.safe_load(yaml.safe_dump(value))
