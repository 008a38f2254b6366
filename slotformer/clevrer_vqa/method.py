"""How Aloe is trained and validated, beside its loss."""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from core.data.loader import Batch
from slotformer.clevrer_vqa.evaluation import accuracies
from slotformer.clevrer_vqa.models.aloe import answer_losses
from slotformer.framework.params import BaseParams


class AloeMethod:
    """Right answers are counted; see slotformer.framework.tasks.SampleMethod.

    The best checkpoint is the one that answers the most questions rightly, of whatever kind.
    """

    floor = 0.01
    fps = 8
    best_by = "acc"

    def __init__(self, params: BaseParams):
        self.params = params

    def initialise(self, model: nn.Module) -> None:
        """Nothing: training starts from random weights."""

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """All weights, at `lr`."""
        return [{"params": list(model.parameters()), "lr": self.params.lr}]

    def before_step(self, model: nn.Module, step: int, num_steps: int) -> None:
        """Nothing changes."""

    def scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """None."""
        return {}

    def samples(self, model: nn.Module, batch: Batch) -> dict[str, Float[Tensor, "_"]]:
        """The accuracies of slotformer.clevrer_vqa.evaluation, and `cls_answer_loss` and `mc_answer_loss`."""
        logits = model.answer(batch)
        losses = dict(zip(("cls_answer_loss", "mc_answer_loss"), answer_losses(*logits, batch)))
        return accuracies(*logits, batch) | losses

    def videos(self, model: nn.Module) -> dict[str, UInt8[Tensor, "T 3 H W"]]:
        """None."""
        return {}


def build_method(params: BaseParams) -> AloeMethod:
    """The method of Aloe."""
    return AloeMethod(params)
