"""The base models, by the names that configurations call them."""

from torch import nn

from core.spelling import nearest
from slotformer.base_slots.models.dvae import dVAE
from slotformer.base_slots.models.savi import StoSAVi
from slotformer.base_slots.models.steve import STEVE
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.framework.tasks import construct

MODELS: dict[str, type[nn.Module]] = {"StoSAVi": StoSAVi, "dVAE": dVAE, "STEVE": STEVE}
DICTS = ("slot_dict", "dvae_dict", "enc_dict", "dec_dict", "pred_dict", "loss_dict")
NO_ARGUMENTS = {"dvae_ckp_path"}
"""Entries of the dicts that say where weights lie."""


def build_model(params: BaseParams) -> nn.Module:
    """The model `params.model`, untrained. Raises ParamsError for one that is none."""
    if params.model not in MODELS:
        raise ParamsError(f"model {params.model!r} is not one of {', '.join(MODELS)}{nearest(params.model, MODELS)}")
    settings = {"clip_len": params.input_frames} if "input_frames" in params else {}
    return construct(MODELS[params.model], params, DICTS, NO_ARGUMENTS, **settings)
