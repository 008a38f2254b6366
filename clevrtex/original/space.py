"""Checkpoints of the original SPACE: its names, to ours and back; buffers that never change are left out.

Both directions only rename, so gradients and the optimisers' moments map like weights.
"""

from collections.abc import Mapping

from torch import Tensor

from clevrtex.original.names import rename, without_prefix

_TABLE = [
    ("foreground.cell_encoder.trunk.", "fg_module.img_encoder.enc."),
    ("foreground.cell_encoder.lateral.", "fg_module.img_encoder.enc_lat."),
    ("foreground.cell_encoder.joint.", "fg_module.img_encoder.enc_cat."),
    ("foreground.cell_encoder.scale.", "fg_module.img_encoder.z_scale_net."),
    ("foreground.cell_encoder.shift.", "fg_module.img_encoder.z_shift_net."),
    ("foreground.cell_encoder.presence.", "fg_module.img_encoder.z_pres_net."),
    ("foreground.cell_encoder.depth.", "fg_module.img_encoder.z_depth_net."),
    ("foreground.what_encoder.layers.", "fg_module.z_what_net.enc_cnn."),
    ("foreground.what_encoder.project.", "fg_module.z_what_net.enc_what."),
    ("foreground.decoder.layers.", "fg_module.glimpse_dec.dec."),
    ("foreground.decoder.colour.", "fg_module.glimpse_dec.dec_o."),
    ("foreground.decoder.alpha.", "fg_module.glimpse_dec.dec_alpha."),
    ("background.first_mask", "bg_module.z_mask_0"),
    ("background.mask_hidden", "bg_module.rnn_mask_h"),
    ("background.mask_cell", "bg_module.rnn_mask_c"),
    ("background.mask_lstm.", "bg_module.rnn_mask."),
    ("background.mask_posterior.", "bg_module.predict_mask.fc."),
    ("background.mask_decoder.", "bg_module.mask_decoder.dec."),
    ("background.prior_hidden", "bg_module.rnn_mask_h_prior"),
    ("background.prior_cell", "bg_module.rnn_mask_c_prior"),
    ("background.prior_lstm.", "bg_module.rnn_mask_prior."),
    ("background.mask_prior.", "bg_module.predict_mask_prior.fc."),
    ("background.image_encoder.", "bg_module.image_enc.enc."),
    ("background.component_encoder.", "bg_module.comp_encoder.enc."),
    ("background.component_prior.", "bg_module.predict_comp_prior.mlp."),
    ("background.component_decoder.layers.", "bg_module.comp_decoder.decoder."),
    ("background.strong_component_decoder.", "bg_module.comp_decoder.dec."),
]
_CONSTANTS = ("fg_module.tau", "fg_module.prior_", "fg_module.img_encoder.offset")


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from an original one, with or without `model.`. Raises ValueError on a name not SPACE's."""
    return {
        rename(key, _TABLE, source=1, model="SPACE"): value
        for key, value in without_prefix(state).items()
        if not key.startswith(_CONSTANTS)
    }


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict (without `model.` and without constant buffers) from ours."""
    return {rename(name, _TABLE, source=0, model="our SPACE"): value for name, value in state.items()}
