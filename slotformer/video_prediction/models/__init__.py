"""The models that predict slots, by the names that configurations call them."""

from torch import nn

from core.spelling import nearest
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.framework.tasks import construct
from slotformer.video_prediction.models.single_step import SingleStepSlotFormer
from slotformer.video_prediction.models.slotformer import SlotFormer
from slotformer.video_prediction.models.steve_slotformer import STEVESlotFormer

MODELS: dict[str, type[nn.Module]] = {
    "SlotFormer": SlotFormer,
    "SingleStepSlotFormer": SingleStepSlotFormer,
    "STEVESlotFormer": STEVESlotFormer,
}
DICTS = ("slot_dict", "dvae_dict", "dec_dict", "rollout_dict", "loss_dict")
NO_ARGUMENTS = {"dvae_ckp_path", "dec_ckp_path"}
"""Entries of the dicts that say where weights lie."""


def build_model(params: BaseParams) -> nn.Module:
    """The model `params.model`; its frozen parts are untrained. Raises ParamsError for one that is none."""
    if params.model not in MODELS:
        raise ParamsError(f"model {params.model!r} is not one of {', '.join(MODELS)}{nearest(params.model, MODELS)}")
    return construct(MODELS[params.model], params, DICTS, NO_ARGUMENTS)
