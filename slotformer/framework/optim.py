"""The optimisers of SlotFormer's trainer."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch

from slotformer.framework.params import BaseParams, ParamsError

OPTIMIZERS = ("adam", "sgd", "rmsprop")


def build_optimizer(params: BaseParams, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """`optimizer` over parameter groups with rates of their own; Adam with `weight_decay` is AdamW.

    Biases and the weights of norms, all that has one axis, do not decay. Raises ParamsError.
    """
    name = params.optimizer.lower()
    if name not in OPTIMIZERS:
        near = difflib.get_close_matches(name, OPTIMIZERS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ParamsError(f"optimizer {params.optimizer!r} is not one of {', '.join(OPTIMIZERS)}{hint}")
    if params.weight_decay > 0:
        groups = [part for group in groups for part in _by_decay(group, params.weight_decay)]
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=params.momentum, fused=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups)
    if params.weight_decay > 0:
        return torch.optim.AdamW(groups, fused=True)
    return torch.optim.Adam(groups, fused=True)


def _by_decay(group: dict[str, Any], weight_decay: float) -> list[dict[str, Any]]:
    decaying = [value for value in group["params"] if value.ndim > 1]
    others = [value for value in group["params"] if value.ndim <= 1]
    parts = ((decaying, weight_decay), (others, 0.0))
    return [{**group, "params": values, "weight_decay": decay} for values, decay in parts if values]
