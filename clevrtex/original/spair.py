"""Checkpoints of the original SPAIR: its names, to ours and back; buffers that never change are left out.

Both directions only rename and reshape, so gradients and Adam's moments map like weights.
"""

from collections.abc import Mapping

from torch import Tensor

from clevrtex.original.names import rename, without_prefix

_TABLE = [
    ("backbone.", "backbone."),
    ("cells.edge", "empty_element"),
    ("cells.box.", "box_enc."),
    ("cells.depth.", "dep_enc."),
    ("cells.presence.", "pre_enc."),
    ("cells.together.", "z_enc."),
    ("cells.what.", "obj_enc."),
    ("object_decoder.layers.", "_obj_dec."),
    ("background_encoder.layers.", "bg_enc."),
    ("background_decoder.layers.", "bg_dec."),
    ("baseline.", "baseline."),
    ("z_pres_prior_p", "_z_pres_prior_p"),
    ("z_pres_temperature", "_z_pres_temperature"),
]
_SCHEDULED = ("z_pres_prior_p", "z_pres_temperature")
_CONSTANTS = ("max_zw", "min_zw", "_z_where_", "_z_what_", "_z_depth_", "_z_bg_")


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from an original one, with or without `model.`.

    Raises ValueError on a name that is not SPAIR's.
    """
    result = {}
    for key, value in without_prefix(state).items():
        if not key.startswith(_CONSTANTS):
            name = rename(key, _TABLE, source=1, model="SPAIR")
            result[name] = value.reshape(()) if name in _SCHEDULED else value
    return result


def to_original(state: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """The original's state dict (without `model.` and without constant buffers) from ours."""
    return {
        rename(name, _TABLE, source=0, model="our SPAIR"): value.reshape(1, 1) if name in _SCHEDULED else value
        for name, value in state.items()
    }
