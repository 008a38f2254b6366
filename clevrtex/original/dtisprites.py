"""Checkpoints of the original DTI-Sprites: their names and layouts, to ours and back.

The original has a regressor for every slot and sprite; ours are stacked. Both directions only rename, stack and drop
constants, so gradients and Adam's moments map like weights.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from clevrtex.models.dtisprites import FIRST_COLOUR
from clevrtex.original.names import rename, without_prefix

_TABLE = [
    ("prototypes", "prototype_params"),
    ("masks", "mask_params"),
    ("backgrounds", "bkg_params"),
    ("encoder.layers.", "encoder.encoder."),
]
_LAYERS = ("0", "3", "5")
"""Places of a regressor's linear layers in the original."""
_STACKED = {
    "sprites": r"sprite_transformers\.(\d+)\.tsf_sequences\.(\d+)\.tsf_modules\.(\d+)\.regressor\.(\d)\.(\w+)",
    "layers": r"layer_transformer\.tsf_sequences\.(\d+)\.tsf_modules\.(\d+)\.regressor\.(\d)\.(\w+)",
    "grounds": r"bkg_transformer\.tsf_sequences\.(\d+)\.tsf_modules\.(\d+)\.regressor\.(\d)\.(\w+)",
}
_OCCLUSION = r"occ_predictor\.(\d)\.(\w+)"
_CONSTANT = r".*\.(identity|activations|tps_grid\.\w+)"
_COPY = r"(sprite_transformers\.\d+|layer_transformer|bkg_transformer)\.encoder\..*"
"""The encoder under its other names."""
_FREEZE_EPOCHS, _MILESTONE = 40, 150


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from an original one, with or without `model.`; constants and copies are left out.

    The original does not save its epoch. It is taken for 150 where all transformations take part, else for 40 if the
    sprites' colours have changed, else for 0: all that matters to what the model computes. Raises ValueError on a name
    that is not DTI-Sprites's.
    """
    state = without_prefix(state)
    result: dict[str, Tensor] = {}
    stacks: dict[str, dict[tuple[int, ...], Tensor]] = {}
    for key, value in state.items():
        if re.fullmatch(_CONSTANT, key) or re.fullmatch(_COPY, key) or not value.numel():
            continue
        name, branch = _name_in_stack(key)
        if name:
            stacks.setdefault(name, {})[branch] = value
        else:
            result[rename(key, _TABLE, source=1, model="DTI-Sprites")] = value
    for name, values in stacks.items():
        shape = tuple(1 + max(places) for places in zip(*values))
        result[name] = torch.stack([values[branch] for branch in sorted(values)]).unflatten(0, shape)
    if "prototypes" in result:
        result |= _progress(state, result)
    return result


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict (without `model.`, constants and copies) from ours."""
    result = {}
    for name, value in state.items():
        part, *words = name.split(".")
        if part == "occlusion":
            result[f"occ_predictor.{_LAYERS[int(words[1])]}.{words[2]}"] = value[0]
        elif part in _STACKED:
            _, module, _, layer, kind = words
            end = f"tsf_modules.{module}.regressor.{_LAYERS[int(layer)]}.{kind}"
            axes = 2 if part == "sprites" else 1
            for place in torch.cartesian_prod(*map(torch.arange, value.shape[:axes])).view(-1, axes).tolist():
                result[f"{_beginning(part, *place)}.{end}"] = value[tuple(place)]
        elif part not in ("frequencies", "epochs_done", "backgrounds_are_set"):
            result[rename(name, _TABLE, source=0, model="our DTI-Sprites")] = value
    return result


def _name_in_stack(key: str) -> tuple[str | None, tuple[int, ...]]:
    """Our name of a regressor's weight or bias, and its place in the stack."""
    if match := re.fullmatch(_OCCLUSION, key):
        return f"occlusion.layers.{_LAYERS.index(match[1])}.{match[2]}", (0,)
    for part, pattern in _STACKED.items():
        if match := re.fullmatch(pattern, key):
            *branch, module, layer, kind = match.groups()
            name = f"{part}.regressors.{module}.layers.{_LAYERS.index(layer)}.{kind}"
            return name, tuple(map(int, branch))
    return None, ()


def _beginning(part: str, *place: int) -> str:
    if part == "sprites":
        return f"sprite_transformers.{place[0]}.tsf_sequences.{place[1]}"
    return f"{'layer' if part == 'layers' else 'bkg'}_transformer.tsf_sequences.{place[0]}"


def _progress(state: Mapping[str, Tensor], result: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the original does not save, or not there."""
    active = state.get("sprite_transformers.0.tsf_sequences.0.activations", torch.tensor([True]))
    epoch = _FREEZE_EPOCHS if (result["prototypes"] != FIRST_COLOUR).any() else 0
    if len(active) > 1 and active.all():
        epoch = _MILESTONE
    num_slots = len({key.split(".")[1] for key in state if key.startswith("sprite_transformers.")})
    shape = num_slots, len(result["prototypes"]) + 1
    return {
        "epochs_done": torch.tensor(epoch),
        "backgrounds_are_set": torch.tensor(True),
        "frequencies.total": torch.zeros(shape, dtype=torch.float64),
        "frequencies.weight": torch.zeros((), dtype=torch.float64),
    }
