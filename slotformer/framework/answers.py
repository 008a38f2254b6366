"""Models that answer yes or no: their loss, their scores, and the videos that they are asked about."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn, optim

from core.data.loader import Batch, BatchSource, to_device
from slotformer.framework.frame_grids import captioned
from slotformer.framework.params import BaseParams

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def answer_losses(logits: Float[Tensor, "B"], label: Integer[Tensor, "B"]) -> Float[Tensor, "B"]:
    """The cross-entropy of each sample's label, 1 or 0."""
    return F.binary_cross_entropy_with_logits(logits, label.float(), reduction="none")


class AnswerMethod(ABC):
    """Answers are counted, and some of the samples shown; see slotformer.framework.tasks.SampleMethod.

    The model's `answer(slots)` gives a logit for each sample. Children say what is validated and what is shown.
    """

    floor = 0.01
    fps: int
    best_by = "acc_0.50"

    def __init__(self, params: BaseParams):
        self.params = params

    @property
    @abstractmethod
    def validation(self) -> BatchSource:
        """The samples that `shown` numbers."""

    @property
    @abstractmethod
    def shown(self) -> dict[int, UInt8[Tensor, "T 3 H W"]]:
        """The videos of some samples, by their places in the validation."""

    def initialise(self, model: nn.Module) -> None:  # noqa: B027 - there is nothing to do
        """Nothing: training starts from random weights."""

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """All that is trained, at `lr`."""
        return [{"params": [value for value in model.parameters() if value.requires_grad], "lr": self.params.lr}]

    def before_step(self, model: nn.Module, step: int, num_steps: int) -> None:  # noqa: B027 - there is nothing to do
        """Nothing changes."""

    def scalars(self, model: nn.Module, optimizer: optim.Optimizer) -> dict[str, float]:
        """None."""
        return {}

    def samples(self, model: nn.Module, batch: Batch) -> dict[str, Float[Tensor, "_"]]:
        """`vqa_loss` and `acc_<threshold>` of every sample."""
        logits, label = model.answer(batch["slots"]), batch["label"]
        probable, true = logits.sigmoid(), label.bool()
        right = {f"acc_{threshold:.2f}": ((probable > threshold) == true).float() for threshold in THRESHOLDS}
        return {"vqa_loss": answer_losses(logits, label), **right}

    def videos(self, model: nn.Module) -> dict[str, UInt8[Tensor, "T 3 H W"]]:
        """`video0`, `video1`, ... of the validation, each below its label and how probable the model finds a yes."""
        found, device = {}, next(model.parameters()).device
        for number, (index, frames) in enumerate(self.shown.items()):
            batch = to_device(self.validation.read(np.array([index])), device)
            probable = float(model.answer(batch["slots"]).sigmoid())
            found[f"video{number}"] = captioned(frames, f"label {int(batch['label'])}, predicted {probable:.2f}")
        return found
