"""Checkpoints of the original EfficientMORL code (pemami4911/EfficientMORL): their names and layouts, to ours and back.

Both directions only rename, reshape and stack, so gradients and Adam's moments map like weights.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.imported import ImportedRun
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, State
from emorl.models import as_trained, build_model
from emorl.settings import UserError, arguments_of_model, complete

# (ours, theirs); the longest matching prefix wins. EMORL's encoder and decoder lie under `hvae_networks.` there.
_ENCODER = [
    ("encoder.position.", "pos_embed_projection."),
    ("encoder.convolutions.", "encoder_pt_1."),
    ("encoder.mlp.", "encoder_pt_2."),
    ("decoder.layers.", "image_decoder.decode."),
    ("decoder.position.", "image_decoder.pos_embed_projection."),
]
_ATTENTION = [
    ("norm_slots.", "norm_slots."),
    ("to_query.", "to_q."),
    ("to_key.", "to_k."),
    ("to_value.", "to_v."),
]
_EFFICIENT_MORL = [
    *((ours, f"hvae_networks.{theirs}") for ours, theirs in _ENCODER),
    *((f"inference.{ours}", f"hvae_networks.{theirs}") for ours, theirs in _ATTENTION),
    ("inference.initial", "hvae_networks.init_posterior"),
    ("inference.mean_mlp.0.", "hvae_networks.norm_mu_pre_ff."),
    ("inference.mean_mlp.1.", "hvae_networks.mlp_mu.0."),
    ("inference.mean_mlp.3.", "hvae_networks.mlp_mu.2."),
    ("inference.scale_mlp.0.", "hvae_networks.norm_softplus_pre_ff."),
    ("inference.scale_mlp.1.", "hvae_networks.mlp_softplus.0."),
    ("inference.scale_mlp.3.", "hvae_networks.mlp_softplus.2."),
    ("inference.project_update.", "hvae_networks.project_update."),
    ("inference.gru.", "hvae_networks.gru."),
    ("prior.hidden.0.", "hvae_networks.indep_prior.z_linear.0."),
    ("prior.mean.", "hvae_networks.indep_prior.z_mu."),
    ("prior.scale.", "hvae_networks.indep_prior.z_softplus."),
    ("refinement.encoding.", "refinenet.encoding."),
    ("refinement.recurrence.", "refinenet.recurrence."),
    ("refinement.mean.", "refinenet.loc."),
    ("refinement.scale.", "refinenet.softplus."),
    ("geco.ema", "geco_C_ema"),
    ("geco.beta", "geco_beta"),
]
_SLOT_ATTENTION = [
    *_ENCODER,
    *_ATTENTION,
    ("initial", "init_slots"),
    ("gru.", "gru."),
    ("mlp.0.", "norm_pre_ff."),
    ("mlp.1.", "mlp.0."),
    ("mlp.3.", "mlp.2."),
]
_GRU_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_OLD_TOP_LEVEL = ("pos_embed_projection.", "encoder_pt_1.", "encoder_pt_2.")
_CONSTANTS = "gru.cell.zeros"
_DROPPED = ("generation_relation", _CONSTANTS)


def is_original(checkpoint: Mapping[str, object]) -> bool:
    """Whether a loaded checkpoint file (or a bare state dict) has the names of the original code."""
    state = checkpoint.get("model", checkpoint)
    return isinstance(state, Mapping) and any("encoder_pt_1." in str(key) for key in state)


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from an original one, with or without `module.`, in the current layout, the older one (with
    `object_discovery_block`), or that of Slot Attention. Raises ValueError on a name that belongs to none of them."""
    state = _current_layout(state)
    table = _table(state)
    result = {}
    for key, value in _stack_dual_gru(state).items():
        name = _rename(key, table, source=1)
        if name.endswith(("initial",)):
            value = value.flatten()
        result[name] = value
    return result


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict (current layout, without `module.`) from ours. GECO's scalars are added if absent."""
    table = _EFFICIENT_MORL if any(key.startswith("inference.") for key in state) else _SLOT_ATTENTION
    result = {}
    if table is _EFFICIENT_MORL:
        like = next(iter(state.values()))
        result = {"geco_C_ema": like.new_tensor(0.0), "geco_beta": like.new_tensor(0.55)}
    for key, value in state.items():
        name = _rename(key, table, source=0)
        if key.endswith("initial"):
            value = value[None]
        if name.startswith("hvae_networks.gru.") and value.shape[0] == 2:
            result.update(_split_dual_gru(name.rsplit(".", 1)[1], value))
        else:
            result[name] = value
    return result


def adam_from_original(
    model_state: Mapping[str, Tensor], adam: Mapping[str, object], parameter_names: Iterable[str]
) -> dict[str, object]:
    """An Adam state dict for our parameters, in the order of `parameter_names`, from the original's `model_opt`.

    The original numbers its parameters in the order of its own state dict, those that we drop included; GECO's two
    scalars have no moments. Raises CheckpointError for a state that is empty or of other parameters.
    """
    keys = [key for key in model_state if _CONSTANTS not in key]
    count = sum(len(group["params"]) for group in adam["param_groups"])
    if not adam["state"]:
        raise CheckpointError("model_opt holds no state of Adam: nothing was trained with it")
    if count != len(keys):
        raise CheckpointError(f"model_opt holds Adam's state of {count} parameters, and the model has {len(keys)}")
    step = next(iter(adam["state"].values()))["step"]
    moments = {}
    for moment in ("exp_avg", "exp_avg_sq"):
        theirs = {}
        for number, key in enumerate(keys):
            shape = model_state[key].shape
            theirs[key] = adam["state"].get(number, {}).get(moment, torch.zeros(shape))
            if theirs[key].shape != shape:
                raise CheckpointError(
                    f"model_opt: {moment} of {key} (number {number}) is {list(theirs[key].shape)}, not {list(shape)}"
                )
        moments[moment] = from_original(theirs)
    names = list(parameter_names)
    state = {
        number: {"step": torch.as_tensor(step, dtype=torch.float32).clone()}
        | {moment: values[name].contiguous() for moment, values in moments.items()}
        for number, name in enumerate(names)
    }
    group = {**adam["param_groups"][0], "params": list(range(len(names)))}
    return {"state": state, "param_groups": [group]}


def _table(state: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    return _EFFICIENT_MORL if any(key.startswith("hvae_networks.") for key in state) else _SLOT_ATTENTION


def _current_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {key.removeprefix("module."): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not any(word in key for word in _DROPPED)}
    if "init_slots" in state:
        return state
    result = {}
    for key, value in state.items():
        if key.startswith("object_discovery_block."):
            key = "hvae_networks." + key.removeprefix("object_discovery_block.")
        elif key.startswith(_OLD_TOP_LEVEL):
            key = f"hvae_networks.{key}"
        result[key] = value
    return result


def _rename(key: str, table: list[tuple[str, str]], source: int) -> str:
    matches = [pair for pair in table if key.startswith(pair[source])]
    if not matches:
        raise ValueError(f"{key!r} is no parameter of EfficientMORL or its Slot Attention")
    pair = max(matches, key=lambda pair: len(pair[source]))
    name = pair[1 - source] + key[len(pair[source]) :]
    parameter = name.rsplit(".", 1)[-1]
    if source == 1:
        return name.removesuffix("_l0")
    return f"{name}_l0" if parameter in _GRU_PARAMETERS else name


def _stack_dual_gru(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The two cells as one batched cell: reset and update rows with the candidate's below, cell by cell."""
    cell = "hvae_networks.gru.cell."
    if f"{cell}bias_ih" not in state:
        return dict(state)
    stacked = {key: value for key, value in state.items() if not key.startswith(cell)}
    for ours, gates, candidate in (("ih", "ih", "in"), ("hh", "hh", "hn")):
        weights = [
            torch.cat((state[f"{cell}weight_{gates}_{j}"], state[f"{cell}weight_{candidate}_{j}"])) for j in (1, 2)
        ]
        biases = zip(state[f"{cell}bias_{gates}"].chunk(2), state[f"{cell}bias_{candidate}"].chunk(2))
        stacked[f"hvae_networks.gru.weight_{ours}"] = torch.stack(weights)
        stacked[f"hvae_networks.gru.bias_{ours}"] = torch.stack([torch.cat(pair) for pair in biases])
    return stacked


def _split_dual_gru(name: str, value: Tensor) -> dict[str, Tensor]:
    kind, side = name.removesuffix("_l0").split("_")
    candidate = {"ih": "in", "hh": "hn"}[side]
    size = value.shape[1] // 3
    gates, rest = value[:, : 2 * size], value[:, 2 * size :]
    cell = "hvae_networks.gru.cell."
    if kind == "bias":
        return {f"{cell}bias_{side}": gates.flatten(), f"{cell}bias_{candidate}": rest.flatten()}
    both = {f"{cell}weight_{side}_{j + 1}": gates[j] for j in range(2)}
    return both | {f"{cell}weight_{candidate}_{j + 1}": rest[j] for j in range(2)}


def import_run(checkpoint: Mapping[str, object], path: Path, config: str, settings: Sequence[str] = ()) -> ImportedRun:
    """A run of ours from a checkpoint of the original and a JSON configuration of its training or its evaluation.

    path: of the checkpoint, for messages. settings: KEY=VALUE that the command line of the training had, such as
    `Net.K=7`. GECO's state is kept where the configuration has `use_geco`. Adam's comes along, so that a training can
    go on, unless it is not of these weights, which `notes` say. Raises ValueError and CheckpointError.
    """
    section, values = _configuration(config, settings)
    described = arguments_of_model(values, section)
    model = build_model(**described)
    if section == "training":
        described = as_trained(described, model, int(checkpoint.get("step", values["training"]["iters"])))
    record = RunRecord(
        paper="emorl",
        builder="emorl.models:build_model",
        arguments=described,
        data={**values["dataset"], "texdataset": values["texdataset"]["path"], "mode": values[section]["mode"]},
        seed=values["seed"],
        checkpoints={"folder": "weights", "prefix": "imported-state-", "suffix": ".pth"},
        inputs={"kind": "images", "size": list(values["Net"]["input_size"][1:])},
    )
    theirs, wanted = checkpoint.get("model", checkpoint), model.state_dict()
    try:
        weights = from_original(theirs)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of the original's {described['name']} ({error})") from error
    state: State = {"model": {key: value for key, value in weights.items() if key in wanted or "geco." not in key}}
    if "step" in checkpoint:
        state["step"] = int(checkpoint["step"])
    notes: tuple[str, ...] = ()
    if checkpoint.get("model_opt") and state["model"].keys() == wanted.keys():
        fresh = torch.optim.Adam(model.parameters(), lr=values[section].get("lr", 1e-3), fused=True).state_dict()
        names = [name for name, _ in model.named_parameters()]
        try:
            moments = adam_from_original(theirs, checkpoint["model_opt"], names)
            state["optimizer"] = {**moments, "param_groups": fresh["param_groups"]}
        except CheckpointError as error:
            notes = (f"without Adam's state: no training can go on from here ({error})",)
    return ImportedRun(
        record,
        state,
        f"weights/imported-state-{state.get('step', 0)}.pth",
        {"config.json": json.dumps(values, indent=2) + "\n"},
        notes=notes,
    )


def _configuration(config: str, settings: Sequence[str]) -> tuple[str, dict]:
    """`training` or `test`, whichever section the file has, and the complete configuration. Raises ValueError."""
    path = Path(config)
    try:
        section = "test" if path.is_file() and "test" in json.loads(path.read_text()) else "training"
        return section, complete(path, section, settings)
    except (UserError, ValueError) as error:
        raise ValueError(f"{config}: {error}") from error
