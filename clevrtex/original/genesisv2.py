"""Checkpoints of the original GENESIS-V2: their names and layouts, to ours and back.

Both directions only rename and reshape, so gradients and Adam's moments map like weights.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from clevrtex.original.names import rename, without_prefix
from clevrtex.original.unet import join_kernels, split_kernels, unet_table

_TABLE = [
    *unet_table("encoder.", "encoder.down.", "encoder.up.", "0.", "1.", "encoder.mlp."),
    *((f"decoder.layers.{n}.", f"decoder_module.{n + 1}.") for n in (0, 1, 3, 4, 6, 7, 9, 10, 12)),
    ("segmentation.", "seg_head."),
    ("colouring.to_colour.", "att_process.colour_head."),
    ("colouring.gate", "att_process.colour_head.gate"),
    ("colouring.log_sigma", "att_process.log_sigma"),
    ("posterior.features.", "feat_head.0."),
    ("posterior.project.", "feat_head.1."),
    ("posterior.head.", "z_head."),
    ("prior.lstm.", "prior_lstm."),
    ("prior.project.", "prior_linear."),
    ("geco.beta", "geco.beta"),
]
_PIXEL_LAYER = "posterior.project.weight"
_OURS_ALONE = ("geco.ema", "geco.started")


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from an original one, with or without `model.`; its constant buffers are left out.

    The original does not save the average of GECO's error: it starts anew. Raises ValueError on a name that is not
    GENESIS-V2's.
    """
    result = {}
    for key, value in without_prefix(state).items():
        if key.endswith(".coords") or (key.startswith("geco.") and key != "geco.beta"):
            continue
        name = rename(key, _TABLE, source=1, model="GENESIS-V2")
        result[name] = value.flatten(1) if name == _PIXEL_LAYER else value
    if "geco.beta" in result:
        result |= {"geco.ema": torch.zeros_like(result["geco.beta"]), "geco.started": torch.tensor(False)}
    return split_kernels(result)


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict (without `model.` and without constant buffers) from ours."""
    result = {}
    for name, value in join_kernels(state).items():
        if name not in _OURS_ALONE:
            key = rename(name, _TABLE, source=0, model="our GENESIS-V2")
            result[key] = value[:, :, None, None] if name == _PIXEL_LAYER else value
    return result
