"""Checkpoints of the original SlotFormer (pairlab/SlotFormer): their weights and training states, to ours and back.

Names are the same. What the original stores and never reads is left out here: grids of positions, which follow from the
sizes, and layers that no output depends on.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from core.imported import ImportedRun
from core.nn.soft_position import SoftPositionEmbed
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, State, load
from slotformer.framework.checkpoints import PREFIX, SUFFIX
from slotformer.framework.params import BaseParams, ParamsError, file_of, load_params, parse_overrides
from slotformer.framework.tasks import arguments_of, inputs_of

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How the original's state dict of a model differs from ours."""

    unused: str
    """Regular expression of the keys that we do not have."""
    unused_weights: Callable[[nn.Module], Weights]
    """What an export writes under them."""
    frozen: tuple[str, ...] = ()
    """Beginnings of the names of parameters that are not trained."""
    groups: tuple[str, ...] = ("",)
    """Parts of names: a parameter belongs to the optimiser's last group whose part its name contains."""
    listed: tuple[str, ...] = ()
    """Beginnings of the names of frozen parameters that the original's optimiser lists all the same."""


def _prior_slot_layer(model: nn.Module) -> Weights:
    """Untrained weights, as in the original, which never trains them."""
    slot_size = model.init_latents.shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (nn.Linear(slot_size, slot_size), nn.LayerNorm(slot_size), nn.ReLU(), nn.Linear(slot_size, slot_size))
        return {f"prior_slot_layer.{key}": value for key, value in nn.Sequential(*layers).state_dict().items()}


def _nothing(model: nn.Module) -> Weights:
    return {}


def _self_attn_masks(decoder: str) -> Callable[[nn.Module], Weights]:
    """True where a word must not look, for every block of STEVE's decoder, which the model calls `decoder`."""

    def masks(model: nn.Module) -> Weights:
        part = model.get_submodule(decoder)
        mask = torch.ones(part.num_tokens, part.num_tokens, dtype=torch.bool).triu(1)
        blocks = range(len(part.tf_dec.blocks))
        return {f"{decoder}.tf_dec.blocks.{number}.self_attn_mask": mask.clone() for number in blocks}

    return masks


def _pairs(model: nn.Module) -> Weights:
    """The slots of all pairs in a row, by which the original forms them."""
    return {"comb_idx": torch.combinations(torch.arange(model.num_slots)).flatten()}


ALOE_MARKS = {
    "text_token": (1.0, 0.0),
    "vision_token": (0.0, 1.0),
    "cls_token": (0.0, 1.0),
    "mc_question_token": (1.0, 0.0),
    "mc_choice_token": (0.0, 1.0),
}
"""That tell Aloe's tokens apart; they are never trained."""


def _aloe_marks(model: nn.Module) -> Weights:
    return {f"transformer_model.{name}": torch.tensor(mark) for name, mark in ALOE_MARKS.items()}


NO_KEY = r"(?!)"
STEVE_MASKS = r"{}\..+\.self_attn_mask"
SLOTFORMER = Layout(NO_KEY, _nothing, ("decoder.", "decoder_pos_embedding."))
LAYOUTS = {
    "StoSAVi": Layout(r"prior_slot_layer\..+", _prior_slot_layer),
    "dVAE": Layout(NO_KEY, _nothing),
    "STEVE": Layout(
        STEVE_MASKS.format("trans_decoder"), _self_attn_masks("trans_decoder"), ("dvae.",), ("", "trans_decoder")
    ),
    "SlotFormer": SLOTFORMER,
    "SingleStepSlotFormer": SLOTFORMER,
    "STEVESlotFormer": Layout(STEVE_MASKS.format("decoder"), _self_attn_masks("decoder"), ("dvae.", "decoder.")),
    "CLEVRERAloe": Layout(
        rf"transformer_model\.({'|'.join(ALOE_MARKS)})",
        _aloe_marks,
        tuple(f"transformer_model.{name}" for name in ALOE_MARKS),
    ),
    "PHYREReadout": Layout(NO_KEY, _nothing),
    "PhysionReadout": Layout("comb_idx", _pairs, ("comb_idx",)),
}
"""By the class of our model, which the original calls the same."""


def _layout(model: nn.Module | str) -> Layout:
    name = model if isinstance(model, str) else type(model).__name__
    if name not in LAYOUTS:
        raise ValueError(f"{name!r} is no model of the original SlotFormer; known are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def is_original(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a loaded checkpoint is the original's: weights beside its training state, or weights alone."""
    return "state_dict" in checkpoint or all(isinstance(value, Tensor) for value in checkpoint.values())


def import_state(model: nn.Module | str, state: Mapping[str, Any]) -> Weights:
    """Our state dict of `model` (or of the class of that name) from a checkpoint of the original, wrapped or bare.

    Raises ValueError where a position grid has another size than the given model's, and for a class unknown here.
    """
    layout, grids = _layout(model), {}
    if isinstance(model, nn.Module):
        modules = model.named_modules()
        grids = {f"{name}.grid": module.grid for name, module in modules if isinstance(module, SoftPositionEmbed)}
    result = {}
    for key, value in state.get("state_dict", state).items():
        key = key.removeprefix("module.")
        if key in grids and value.shape != grids[key].shape:
            found, expected = (tuple(grid.shape[1:3]) for grid in (value, grids[key]))
            raise ValueError(f"{key}: expected a grid of {expected}, found {found}: weights of another resolution")
        if not (key.endswith(".grid") or re.fullmatch(layout.unused, key)):
            result[key] = value
    return result


def export_state(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> Weights:
    """The original's (bare) state dict of `model`, or of the weights `state` of such a model.

    Layers that the original stores and never trains get untrained weights.
    """
    layout = _layout(model)
    result = dict(model.state_dict() if state is None else state)
    for name, module in model.named_modules():
        if isinstance(module, SoftPositionEmbed):
            result[f"{name}.grid"] = module.grid.clone()
    return {**result, **layout.unused_weights(model)}


def read_weights(path: Path, model: nn.Module | str) -> Weights:
    """Our state dict of `model` (or of the class of that name) from a checkpoint of ours or of the original.

    Raises CheckpointError.
    """
    checkpoint = load(path)
    if not is_original(checkpoint):
        if "model" not in checkpoint:
            raise CheckpointError(f"{path}: holds no weights, neither ours (model) nor the original's (state_dict)")
        return checkpoint["model"]
    try:
        return import_state(model, checkpoint)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def training_state(checkpoint: Mapping[str, Any], model: nn.Module, path: Path) -> State:
    """A state of ours that continues a training of the original: weights, optimiser, and the iterations done.

    Its optimiser must have been Adam without weight decay. The order of the data does not carry over. Raises
    CheckpointError, also for weights alone.
    """
    missing = [key for key in ("state_dict", "opt_state_dict", "it") if key not in checkpoint]
    if missing:
        raise CheckpointError(
            f"{path}: holds weights without {', '.join(missing)}, so no training continues from it. Start a fresh run "
            "from these weights"
        )
    try:
        weights = import_state(model, checkpoint)
        optimizer = _optimizer_state(checkpoint, model)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return {"step": checkpoint["it"] - 1, "model": weights, "optimizer": optimizer}


def _optimizer_state(checkpoint: Mapping[str, Any], model: nn.Module) -> State:
    layout, given = _layout(model), checkpoint["opt_state_dict"]
    names = [key.removeprefix("module.") for key in checkpoint["state_dict"] if not key.endswith(".grid")]
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    trained = {name for name in names if name not in frozen and not name.startswith(layout.frozen)}
    theirs = _in_groups([name for name in names if name in trained or name.startswith(layout.listed)], layout)
    ours = _in_groups([name for name, value in model.named_parameters() if value.requires_grad], layout)
    sizes = [len(group["params"]) for group in given["param_groups"]]
    if sizes != [len(group) for group in theirs]:
        raise ValueError(
            f"its optimiser has groups of {sizes} parameters, the weights make {[len(group) for group in theirs]}: was "
            "it trained with weight decay, or with parts frozen?"
        )
    moments: dict[str, Any] = {}
    for group, group_names in zip(given["param_groups"], theirs):
        moments |= {name: given["state"].get(index) for index, name in zip(group["params"], group_names)}
    state, groups, index = {}, [], 0
    for group, group_names in zip(given["param_groups"], ours):
        groups.append({**group, "params": list(range(index, index + len(group_names)))})
        for name in group_names:
            if moments.get(name):
                state[index] = moments[name]
            index += 1
    return {"state": state, "param_groups": groups}


def _in_groups(names: list[str], layout: Layout) -> list[list[str]]:
    groups: list[list[str]] = [[] for _ in layout.groups]
    for name in names:
        groups[max(index for index, part in enumerate(layout.groups) if part in name)].append(name)
    return groups


TASKS = ("base_slots", "video_prediction", "clevrer_vqa", "physion_vqa", "phyre_planning")


def import_run(
    checkpoint: Mapping[str, Any],
    path: Path,
    config: str,
    settings: Sequence[str] = (),
    package: str = "slotformer",
    tasks: Sequence[str] = TASKS,
) -> ImportedRun:
    """A run of ours from a checkpoint of the original, wrapped or bare, and the params file that it was trained with.

    path: of the checkpoint, for messages. settings: words of `--set`. The task is the one of `tasks` that stands in
    the path of the params file, or else the first whose keys fit it.

    What the checkpoint says of the optimiser comes along, so that a training can go on. CLEVRER's models have seen
    blue, green, red, and are given it (`as_original`). Raises ParamsError and CheckpointError.
    """
    file, overrides = file_of(config), parse_overrides(settings)
    task, params = _load_task_params(file, package, tasks, overrides)
    model = task.build_model(params)
    sees_blue_first = package == "slotformer" and hasattr(task, "SEES") and params.get("dataset") == "clevrer"
    if "as_original" not in overrides and (sees_blue_first or "as_original" in arguments_of(type(model))):
        params.as_original = True
        model = task.build_model(params)
    inputs = inputs_of(task, params, model)
    if inputs and sees_blue_first and params.as_original:
        inputs["channels"] = "bgr"
    state: State = {"params": params.to_dict()}
    notes: tuple[str, ...] = ()
    try:
        state |= {"model": import_state(model, checkpoint)}
        if "it" in checkpoint:
            state |= training_state(checkpoint, model, path)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except CheckpointError as error:
        state["step"] = checkpoint["it"] - 1
        notes = (f"no training can be continued from it: {error}",)
    record = RunRecord(
        paper=package,
        builder="slotformer.framework.tasks:rebuild_model",
        arguments={"task": task.__name__, "params": params.to_dict()},
        data={key: params.to_dict()[key] for key in ("dataset", "data_root") if key in params},
        seed=0,
        checkpoints={"folder": "models", "prefix": PREFIX, "suffix": SUFFIX},
        inputs=inputs,
    )
    return ImportedRun(
        record,
        state,
        f"models/{PREFIX}{state.get('step', -1) + 1}{SUFFIX}",
        {"params.py": file.read_text()},
        bool(params.get("as_original", False)),
        notes,
    )


def _load_task_params(
    file: Path, package: str, tasks: Sequence[str], overrides: Mapping[str, Any]
) -> tuple[ModuleType, BaseParams]:
    """The task of a params file, and what the file says. Raises ParamsError, of the first task, if it fits none."""
    named = [name for name in tasks if name in file.resolve().parts]
    first: ParamsError | None = None
    for name in named or tasks:
        task = import_module(f"{package}.{name}")
        try:
            params = load_params(file, task.Keys, overrides)
            with torch.device("meta"):
                task.build_model(params)
            return task, params
        except ParamsError as error:
            first = first or error
    raise first
