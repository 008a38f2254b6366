"""Models by the names that configurations call them."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from core.spelling import nearest
from slotdiffusion.models.vqvae import VQVAE
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.framework.tasks import construct

SLOT_DICTS = ("slot_dict", "enc_dict", "loss_dict")
"""Dicts whose entries are arguments of every model with slots."""
NO_ARGUMENTS = {"dvae_ckp_path"}
"""Entries that say where weights lie."""
Models = Mapping[str, tuple[type[nn.Module], tuple[str, ...]]]
"""Classes by name, and the dicts of a configuration whose entries are their arguments."""


def build_from(models: Models, params: BaseParams, **others: Any) -> nn.Module:
    """The model `params.model`, untrained; `others` are arguments. Raises ParamsError for one that is none."""
    if params.model not in models:
        raise ParamsError(f"model {params.model!r} is not one of {', '.join(models)}{nearest(params.model, models)}")
    model, dicts = models[params.model]
    if model is VQVAE:
        # An integer in `enc_dec_dict`, where the frames' is a pair. Of the two weights the one there says whether.
        is_used = params.get("vq_dict", {}).get("percept_loss_w", 1.0) > 0
        weight = params.get("percept_loss_w", 1.0) if is_used else 0.0
        return construct(model, params, dicts, {"percept_loss_w"}, percept_loss_w=weight)
    return construct(model, params, dicts, NO_ARGUMENTS, **others)
