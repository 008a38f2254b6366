"""Aloe, by the name that configurations call it."""

from torch import nn

from core.spelling import nearest
from slotformer.clevrer_vqa.models.aloe import CLEVRERAloe
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.framework.tasks import construct

MODELS: dict[str, type[nn.Module]] = {"CLEVRERAloe": CLEVRERAloe}
DICTS = ("transformer_dict", "vision_dict", "loss_dict")


def build_model(params: BaseParams) -> nn.Module:
    """The model `params.model`, untrained. Raises ParamsError for one that is none, and for the masked-object loss."""
    if params.model not in MODELS:
        raise ParamsError(f"model {params.model!r} is not one of {', '.join(MODELS)}{nearest(params.model, MODELS)}")
    if params.get("loss_dict", {}).get("use_mask_obj_loss", False):
        raise ParamsError("loss_dict.use_mask_obj_loss is True, expected False: no published model has that loss")
    return construct(MODELS[params.model], params, DICTS, {"use_mask_obj_loss"})
