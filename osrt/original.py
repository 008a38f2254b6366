"""Checkpoints of the original code (stelzner/osrt), which are called model.pt as ours are, to ours and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from core.imported import ImportedRun
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, State
from osrt.checkpoints import LAST
from osrt.config import load_config
from osrt.data import published_inputs, render_range
from osrt.models import has_slots

PARTS = ("encoder", "decoder")


def is_original(state: Mapping[str, Any]) -> bool:
    """Whether the content of a checkpoint file is the original code's."""
    return all(isinstance(state.get(part), Mapping) for part in PARTS)


def weights_of(state: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The state dict of a model in a checkpoint of ours or of the original. Raises CheckpointError."""
    if is_original(state):
        return {
            f"{part}.{name.removeprefix('module.')}": value for part in PARTS for name, value in state[part].items()
        }
    if isinstance(state.get("model"), Mapping):
        return dict(state["model"])
    raise CheckpointError(f"{path}: holds no weights: neither `model`, as ours do, nor `encoder` and `decoder`")


def training_state(
    state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, path: str | Path
) -> State:
    """A checkpoint of the original as one of ours for `model` and its `optimizer`, to continue as the original would.

    Its `it` is the iteration that it takes as done: the next one is `it` + 1. Adam counts parameters in the order of
    the encoder's and the decoder's state dicts. Raises CheckpointError if something is missing.
    """
    missing = {"optimizer", "it"} - state.keys()
    if missing:
        raise CheckpointError(f"{path}: of the original code, but without {', '.join(sorted(missing))}")
    weights = weights_of(state, path)
    return {
        "step": int(state["it"]),
        "seconds": float(state.get("t", 0.0)),
        "model": weights,
        "optimizer": {
            "state": _renumbered(state["optimizer"]["state"], list(weights), model),
            "param_groups": optimizer.state_dict()["param_groups"],
        },
        "best": _finite(state.get("loss_val_best")),
        "run_id": state.get("run_id"),
    }


def export_state(state: Mapping[str, Any], best_if_none: float) -> dict[str, Any]:
    """A checkpoint of ours as the original writes it before its iteration `it`, which it will skip.

    best_if_none: what stands for the best metric of a run without evaluation: -inf where it is maximised, else inf.
    """
    weights = state["model"]
    parts = {
        part: {name.removeprefix(f"{part}."): weights[name] for name in weights if name.startswith(f"{part}.")}
        for part in PARTS
    }
    best = state.get("best")
    return {
        **parts,
        "optimizer": state["optimizer"],
        "epoch_it": state.get("epoch", 0),
        "it": state["step"],
        "t": state["seconds"],
        "loss_val_best": best_if_none if best is None else best,
        "run_id": state.get("run_id"),
    }


def _renumbered(moments: Mapping[int, Any], theirs: list[str], model: nn.Module) -> dict[int, Any]:
    """Adam's state with parameters counted in our order."""
    number = {name: index for index, name in enumerate(theirs)}
    ours = [name for name, _ in model.named_parameters()]
    return {index: moments[number[name]] for index, name in enumerate(ours) if number.get(name) in moments}


def _finite(best: float | Tensor | None) -> float | None:
    """The best metric so far; the original says infinity where there is none."""
    return None if best is None or not torch.isfinite(torch.as_tensor(best)) else float(best)


def import_run(state: Mapping[str, Any], path: Path, config: str, settings: Sequence[str] = ()) -> ImportedRun:
    """A run of ours from a checkpoint of the original and its YAML file; the folder of the run has a config.yaml.

    path: of the checkpoint, for messages. settings: words of `--set`. Pictures have the size of the published data.
    Optimiser and counters come along, so that a training can go on. Raises ConfigError, ModelError, CheckpointError.
    """
    values = load_config(config, settings)
    arguments = values.model_arguments(render_range(values.data))
    record = RunRecord(
        paper="osrt",
        builder="osrt.models:build_model",
        arguments=arguments,
        data=values.to_dict()["data"],
        seed=0,
        checkpoints={"file": LAST},
        inputs=published_inputs(values.data) if has_slots(arguments) else {},
    )
    model = record.build()
    imported: State = {"model": weights_of(state, path)}
    if {"optimizer", "it"} <= state.keys() and imported["model"].keys() == model.state_dict().keys():
        adam = torch.optim.Adam(model.parameters(), lr=values.training.peak_lr, fused=True)
        imported = training_state(state, model, adam, path)
    elif "it" in state:
        imported["step"] = int(state["it"])
    text = yaml.safe_dump(values.to_dict(), sort_keys=False)
    return ImportedRun(record, imported, LAST, {"config.yaml": text})
