"""Checkpoints of the original GNM: its names, to ours and back; buffers that never change are left out.

Both directions only rename and reshape, so gradients and the optimiser's moments map like weights.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from clevrtex.original.names import rename, without_prefix

_TABLE = [
    ("encoder.", "img_encoder.conv."),
    ("draw.prior.", "global_struct_draw.p_global_net.mlp."),
    ("draw.posterior.", "global_struct_draw.q_global_net.mlp."),
    ("draw.latent_decoder.", "global_struct_draw.p_global_decoder_net.mlp."),
    ("draw.encoder.hidden", "global_struct_draw.rnn_enc.h_0"),
    ("draw.encoder.cell", "global_struct_draw.rnn_enc.c_0"),
    ("draw.encoder.gates.", "global_struct_draw.rnn_enc.conv."),
    ("draw.decoder.hidden", "global_struct_draw.rnn_dec.h_0"),
    ("draw.decoder.cell", "global_struct_draw.rnn_dec.c_0"),
    ("draw.decoder.gates.", "global_struct_draw.rnn_dec.conv."),
    ("draw.canvas_update.", "global_struct_draw.hid_to_dec_net.conv."),
    ("object_network.trunk.", "p_z_given_x_or_g_net.pwdw_net.conv."),
    ("object_network.presence.", "p_z_given_x_or_g_net.q_pres_net."),
    ("object_network.where.", "p_z_given_x_or_g_net.q_where_net."),
    ("object_network.depth.", "p_z_given_x_or_g_net.q_depth_net."),
    ("object_network.what.", "p_z_given_x_or_g_net.q_what_net."),
    ("renderer.decoder.", "local_latent_sampler.z_what_decoder_net.conv."),
    ("background_posterior.", "q_bg_given_x_net.p_bg_encoder.mlp."),
    ("background_prior.", "p_bg_given_g_net.p_bg_generator.mlp."),
    ("background_decoder.", "p_bg_decoder.p_bg_decoder.conv."),
]
_CONSTANTS = ("aux_p_", "background", "global_struct_draw.dec_step_0", "local_latent_sampler.offset")
_INITIAL_STATES = ("_0",)


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from an original one, with or without `model.`; the step of its training is unknown.

    Raises ValueError on a name that is not GNM's.
    """
    result = {"step": torch.zeros((), dtype=torch.long)}
    for key, value in without_prefix(state).items():
        if not key.startswith(_CONSTANTS):
            name = rename(key, _TABLE, source=1, model="GNM")
            result[name] = value[0] if key.endswith(_INITIAL_STATES) else value
    return result


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict (without `model.` and without constant buffers) from ours."""
    result = {}
    for name, value in state.items():
        if name != "step":
            key = rename(name, _TABLE, source=0, model="our GNM")
            result[key] = value[None] if key.endswith(_INITIAL_STATES) else value
    return result
