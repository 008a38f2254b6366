"""Checkpoints of the original ClevrTex code (karazijal/clevrtex), which PyTorch Lightning wrote; not MarioNette's."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from core.imported import read_foreign
from core.training.checkpoint import CheckpointError

VERSION = "pytorch-lightning_version"
_MODULES = {"g2": "genesisv2", "dtis": "dtisprites", "spair-s": "spair", "spair-b": "spair"}
"""Files here whose names are not those of their models in folders."""


class _Callback:
    """Stands in for classes that Lightning uses as keys of its callbacks' states."""


_STAND_INS: list[Any] = [
    (_Callback, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (_Callback, "framework.base_experiment.CheckPointPNRG"),
]


def is_original(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a loaded checkpoint is Lightning's."""
    return VERSION in checkpoint and "state_dict" in checkpoint


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of ours or of the original code.

    Nothing but tensors, numpy arrays, builtin types and the names of two callbacks is admitted. Raises CheckpointError.
    """
    return read_foreign(path, _STAND_INS)


def read_weights(path: Path, model: str) -> dict[str, Tensor]:
    """Our state dict of the model `slota`, `iodine`, ... from a checkpoint of ours or of the original code.

    Raises CheckpointError.
    """
    if model == "marionette":
        from clevrtex.original.marionette import read_both

        return read_both(path)
    checkpoint = read(path)
    if is_original(checkpoint):
        return original_weights(checkpoint, model, path)
    if "model" not in checkpoint:
        raise CheckpointError(f"{path}: holds no weights, neither ours (model) nor the original's (state_dict)")
    return checkpoint["model"]


def original_weights(checkpoint: Mapping[str, Any], model: str, path: Path) -> dict[str, Tensor]:
    """Our state dict of `model` from what `path`, a checkpoint of the original code, holds. Raises CheckpointError."""
    mapping = importlib.import_module(f"clevrtex.original.{_MODULES.get(model, model)}")
    try:
        return mapping.from_original(checkpoint["state_dict"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of the original's {model} ({error})") from error
