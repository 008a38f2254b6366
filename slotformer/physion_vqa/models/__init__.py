"""The read-out, by the name that configurations call it."""

from torch import nn

from core.spelling import nearest
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.framework.tasks import construct
from slotformer.physion_vqa.models.readout import PhysionReadout

MODELS: dict[str, type[nn.Module]] = {"PhysionReadout": PhysionReadout}


def build_model(params: BaseParams) -> nn.Module:
    """The model `params.model`, untrained. Raises ParamsError for one that is none."""
    if params.model not in MODELS:
        raise ParamsError(f"model {params.model!r} is not one of {', '.join(MODELS)}{nearest(params.model, MODELS)}")
    return construct(MODELS[params.model], params, ("readout_dict",))
