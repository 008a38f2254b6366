"""The models of dynamics and the read-out, by the names that configurations call them."""

from torch import nn

from core.spelling import nearest
from slotdiffusion.vp_vqa.models.ldm_slotformer import LDMSlotFormer
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.framework.tasks import construct
from slotformer.physion_vqa.models.readout import PhysionReadout

DYNAMICS, READOUT = LDMSlotFormer.__name__, PhysionReadout.__name__
MODELS = (DYNAMICS, READOUT)


def build_model(params: BaseParams) -> nn.Module:
    """The model `params.model`; its frozen parts are untrained. Raises ParamsError for one that is none."""
    if params.model == READOUT:
        return construct(PhysionReadout, params, ("readout_dict",))
    if params.model == DYNAMICS:
        return construct(LDMSlotFormer, params, ("slot_dict", "rollout_dict", "loss_dict"))
    raise ParamsError(f"model {params.model!r} is not one of {', '.join(MODELS)}{nearest(params.model, MODELS)}")
