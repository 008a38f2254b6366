"""Checkpoints of the original MONet: their names and layouts, to ours and back.

Both directions only rename and reshape, so gradients and the optimiser's moments map like weights.
"""

from collections.abc import Mapping

from torch import Tensor

from clevrtex.original.names import rename, without_prefix
from clevrtex.original.unet import join_kernels, split_kernels, unet_table

_TABLE = [
    *unet_table("attention.unet.", "att.downblocks.", "att.upblocks.", "conv.", "norm.", "att.mlp."),
    ("attention.to_logit.", "att.output."),
    ("encoder.layers.", "enc."),
    ("decoder.layers.", "dec."),
]
_CONSTANTS = "_z_"
"""Priors of a base class, which MONet does not change."""


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from an original one, with or without `model.`; its constant buffers are left out.

    Raises ValueError on a name that is not MONet's.
    """
    state = {key: value for key, value in without_prefix(state).items() if not key.startswith(_CONSTANTS)}
    return split_kernels({rename(key, _TABLE, source=1, model="MONet"): value for key, value in state.items()})


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict (without `model.` and without constant buffers) from ours."""
    return {rename(key, _TABLE, source=0, model="our MONet"): value for key, value in join_kernels(state).items()}
