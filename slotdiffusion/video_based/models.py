"""The models of videos, by the names that configurations call them."""

from torch import nn

from slotdiffusion.models.savi import SAVi
from slotdiffusion.models.savi_diffusion import SAViDiffusion
from slotdiffusion.models.steve import STEVE
from slotdiffusion.models.vqvae import VQVAE
from slotformer.base_slots.models.dvae import dVAE
from slotformer.framework.params import BaseParams, ParamsError, nearest
from slotformer.framework.tasks import construct

SLOT_DICTS = ("slot_dict", "enc_dict", "pred_dict", "loss_dict")
MODELS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "VQVAE": (VQVAE, ("enc_dec_dict", "vq_dict")),
    "dVAE": (dVAE, ()),
    "SAVi": (SAVi, (*SLOT_DICTS, "dec_dict")),
    "STEVE": (STEVE, (*SLOT_DICTS, "dec_dict", "dvae_dict")),
    "SAViDiffusion": (SAViDiffusion, SLOT_DICTS),
}
"""And the dicts whose entries are arguments."""
NO_ARGUMENTS = {"dvae_ckp_path"}
"""Entries that say where weights lie."""


def build_model(params: BaseParams) -> nn.Module:
    """The model `params.model`, untrained. Raises ParamsError for one that is none."""
    if params.model not in MODELS:
        raise ParamsError(f"model {params.model!r} is not one of {', '.join(MODELS)}{nearest(params.model, MODELS)}")
    model, dicts = MODELS[params.model]
    others = {"clip_len": params.input_frames} if "input_frames" in params else {}
    if model is VQVAE:
        # An integer in `enc_dec_dict`, where the frames' is a pair. Of the two weights the one there says whether.
        is_used = params.get("vq_dict", {}).get("percept_loss_w", 1.0) > 0
        others = {"percept_loss_w": params.get("percept_loss_w", 1.0) if is_used else 0.0}
        return construct(model, params, dicts, {"percept_loss_w"}, **others)
    return construct(model, params, dicts, NO_ARGUMENTS, **others)
