"""Checkpoints of the original IODINE: their names and layouts, to ours and back.

Both directions only rename and reshape, so gradients and Adam's moments map like weights.
"""

from collections.abc import Mapping

from torch import Tensor

from clevrtex.original.names import rename, without_prefix

_TABLE = [
    ("initial", "lamda_0"),
    ("decoder.layers.", "image_decoder.decode."),
    ("refinement.convolutions.", "refine_net.conv."),
    ("refinement.summary.", "refine_net.conv.10."),
    ("refinement.lstm.weight_ih", "refine_net.lstm.weight_ih_l0"),
    ("refinement.lstm.weight_hh", "refine_net.lstm.weight_hh_l0"),
    ("refinement.lstm.bias_ih", "refine_net.lstm.bias_ih_l0"),
    ("refinement.lstm.bias_hh", "refine_net.lstm.bias_hh_l0"),
    ("refinement.update.", "refine_net.ref_head."),
    ("refinement_inputs.norm_evidence.", "layer_norms.0."),
    ("refinement_inputs.norm_leave_one_out.", "layer_norms.1."),
    ("refinement_inputs.norm_of_rgb.", "layer_norms.2."),
    ("refinement_inputs.norm_of_masks.", "layer_norms.3."),
    ("refinement_inputs.norm_of_mean.", "layer_norms.4."),
    ("refinement_inputs.norm_of_scale.", "layer_norms.5."),
]
_BUFFER = "gmm_log_scale"


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from an original one, with or without `model.`; its buffer, the `std` argument, is left out.

    Raises ValueError on a name that is not IODINE's.
    """
    state = {key: value for key, value in without_prefix(state).items() if key != _BUFFER}
    names = {key: rename(key, _TABLE, source=1, model="IODINE") for key in state}
    return {names[key]: value.flatten() if names[key] == "initial" else value for key, value in state.items()}


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict (without `model.` and without its buffer) from ours."""
    names = {key: rename(key, _TABLE, source=0, model="our IODINE") for key in state}
    return {names[key]: value[None] if key == "initial" else value for key, value in state.items()}
