"""Checkpoints of the original MarioNette: two files, one of the model and one of its dictionary of backgrounds.

Names are mapped to ours and back, layouts are the same, so gradients and Adam's moments map like weights.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clevrtex import original
from clevrtex.original.names import rename, without_prefix
from core.training.checkpoint import CheckpointError

MODEL, BACKGROUND = "model.", "background."
"""What the names of the two files begin with where they stand in one dict."""
_TABLE = [
    ("encoder.", "im_encoder."),
    ("to_presence.", "probs."),
    ("project.", "project.0."),
    ("dictionary.", "learned_dict."),
    ("shift_encoder.", "encoder_xform."),
    ("to_shift.", "shifts."),
    ("to_shift_x.", "xforms_x."),
    ("to_shift_y.", "xforms_y."),
    ("background.", "background."),
    ("background_encoder.", "bg_encoder."),
    ("background_project.", "bg_project.0."),
    ("background_colour", "bg_color"),
]


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from an original one: names of the model, with or without `model.`, and `background.` names.

    Raises ValueError on a name that is not MarioNette's.
    """
    return {rename(key, _TABLE, 1, "MarioNette"): value for key, value in without_prefix(state).items()}


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's names, `model.` and `background.`, from ours, or from a part of ours, such as the parameters."""
    names = {key: rename(key, _TABLE, 0, "our MarioNette") for key in state}
    return {key if key.startswith(BACKGROUND) else MODEL + key: state[name] for name, key in names.items()}


def arguments_of(state: Mapping[str, Tensor], side: int = 128) -> dict[str, Any]:
    """The sizes of the model with these weights, which have our names, as the model takes them.

    side: of the pictures, where no learned background shows it. Options that have no weights keep their defaults.
    """
    blocks = {key.split(".")[2] for key in state if key.startswith("encoder.blocks.")}
    has_background = "background.latent" in state
    if has_background:
        side = math.isqrt(len(state["background.decode.3.weight"]) // 3)
    return {
        "image_size": (side, side),
        "layer_size": side >> len(blocks),
        "num_layers": len({key.split(".")[2] for key in state if key.startswith("encoder.heads.")}),
        "num_classes": len(state["dictionary.latent"]),
        "dim_z": state["dictionary.latent"].shape[1],
        "num_backgrounds": len(state["background.latent"]) if has_background else 0,
        **({"dim_bg": state["background.latent"].shape[1]} if has_background else {}),
        "spatial_transformer": "to_shift.0.weight" in state,
    }


def read_model(path: Path) -> dict[str, Tensor]:
    """Our weights from a `model/<name>.pth`; the original's has no backgrounds. Raises CheckpointError."""
    state = _weights(path)
    if all(any(key.startswith(ours) for ours, _ in _TABLE) for key in state):
        return dict(state)
    try:
        return from_original(state)
    except ValueError as error:
        raise CheckpointError(
            f"{path}: no checkpoint of MarioNette, neither ours nor the original's ({error})"
        ) from error


def read_background(path: Path) -> dict[str, Tensor]:
    """The weights of the dictionary of backgrounds from a `bg/<name>.pth`, which ours and the original's have alike."""
    return {BACKGROUND + key: value for key, value in _weights(path).items()}


def read_both(path: Path, background: Path | None = None) -> dict[str, Tensor]:
    """Our weights from a `model/<name>.pth`, and where that lacks them, its backgrounds from `background`.

    By default that is `bg/<name>.pth` beside `model/`. Raises CheckpointError.
    """
    weights = read_model(path)
    if any(key.startswith((BACKGROUND, "background_colour")) for key in weights) and background is None:
        return weights
    background = background or path.absolute().parent.parent / "bg" / path.name
    if not background.is_file():
        raise CheckpointError(
            f"{path}: the original keeps a model's backgrounds in a file of their own, and {background} is not there. "
            "Put it there, or name it with --load_bg of `python -m clevrtex.marionet.train` and `.evaluate`"
        )
    return weights | read_background(background)


def _weights(path: Path) -> Mapping[str, Tensor]:
    state = original.read(path)
    if not isinstance(state.get("model"), Mapping):
        raise CheckpointError(f"{path}: expected weights under `model`, found {', '.join(map(str, state))}")
    return state["model"]
