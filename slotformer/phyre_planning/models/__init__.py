"""The classifier, by the name that configurations call it."""

from torch import nn

from core.spelling import nearest
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.framework.tasks import construct
from slotformer.phyre_planning.models.readout import PHYREReadout

MODELS: dict[str, type[nn.Module]] = {"PHYREReadout": PHYREReadout}
NO_ARGUMENTS = {"num_slots"}
"""Entries that say what the data are; any number of slots goes through."""


def build_model(params: BaseParams) -> nn.Module:
    """The model `params.model`, untrained. Raises ParamsError for one that is none."""
    if params.model not in MODELS:
        raise ParamsError(f"model {params.model!r} is not one of {', '.join(MODELS)}{nearest(params.model, MODELS)}")
    return construct(MODELS[params.model], params, ("readout_dict",), NO_ARGUMENTS)
