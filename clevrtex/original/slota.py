"""Checkpoints of the original Slot Attention: their names and layouts, to ours and back.

Both directions only rename and reorder, so gradients and Adam's moments map like weights.
"""

from collections.abc import Mapping

from torch import Tensor

from clevrtex.original.names import rename, without_prefix

_TABLE = [
    ("encoder.convolutions.", "encoder_cnn."),
    ("encoder.position.", "encoder_pos.aff."),
    ("encoder.norm.", "layer_norm."),
    ("encoder.mlp.", "mlp."),
    ("slot_update.initial_mean", "slot_attention.slots_mu"),
    ("slot_update.initial_log_std", "slot_attention.slots_logsigma"),
    ("slot_update.norm_inputs.", "slot_attention.norm_input."),
    ("slot_update.norm_slots.", "slot_attention.norm_slots."),
    ("slot_update.to_query.", "slot_attention.to_q."),
    ("slot_update.to_key.", "slot_attention.to_k."),
    ("slot_update.to_value.", "slot_attention.to_v."),
    ("slot_update.gru.", "slot_attention.gru."),
    ("slot_update.mlp.0.", "slot_attention.norm_pre_ff."),
    ("slot_update.mlp.1.", "slot_attention.mlp.0."),
    ("slot_update.mlp.3.", "slot_attention.mlp.2."),
    ("decoder.layers.", "decoder_cnn."),
    ("decoder.position.", "decoder_pos.aff."),
]
# Their positions are (rows, columns, 1 - rows, 1 - columns), ours (1 - rows, rows, columns, 1 - columns).
_OUR_POSITIONS = [2, 0, 1, 3]
_THEIR_POSITIONS = [1, 2, 0, 3]
_PIXEL_LAYERS = ("encoder.mlp.0.weight", "encoder.mlp.2.weight")


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from an original one, with or without `model.`; its position grids are left out.

    Raises ValueError on a name that is not Slot Attention's.
    """
    result = {}
    for key, value in without_prefix(state).items():
        if key.endswith("_pos.grid"):
            continue
        name = rename(key, _TABLE, source=1, model="Slot Attention")
        if name.startswith("slot_update.initial"):
            value = value.flatten()
        elif name.startswith("encoder.norm."):
            value = value.permute(1, 2, 0).contiguous()
        elif name.endswith("position.weight"):
            value = value.flatten(1)[:, _OUR_POSITIONS]
        elif name in _PIXEL_LAYERS:
            value = value.flatten(1)
        result[name] = value
    return result


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict (without `model.` and without position grids) from ours."""
    result = {}
    for name, value in state.items():
        if name.startswith("slot_update.initial"):
            value = value[None, None]
        elif name.startswith("encoder.norm."):
            value = value.permute(2, 0, 1).contiguous()
        elif name.endswith("position.weight"):
            value = value[:, _THEIR_POSITIONS, None, None]
        elif name in _PIXEL_LAYERS:
            value = value[:, :, None, None]
        result[rename(name, _TABLE, source=0, model="our Slot Attention")] = value
    return result
