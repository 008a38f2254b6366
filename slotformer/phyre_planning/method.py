"""How classifiers of PHYRE are trained, validated and shown, beside their loss."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from core.data.clips import visualised_videos
from core.data.loader import Batch, to_device
from slotformer.framework.frame_grids import captioned
from slotformer.framework.params import BaseParams
from slotformer.phyre_planning.data import RolloutSlots, open_slots, open_videos
from slotformer.phyre_planning.models.readout import answer_losses

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


class SuccessMethod:
    """Right answers are counted, and some trials shown, which are simulated for it unless `n_samples` is 0.

    See slotformer.framework.tasks.SampleMethod.
    """

    floor = 0.01
    fps = 8
    best_by = "acc_0.50"

    def __init__(self, params: BaseParams):
        self.params = params

    def initialise(self, model: nn.Module) -> None:
        """Nothing: training starts from random weights."""

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """All that is trained, at `lr`."""
        return [{"params": [value for value in model.parameters() if value.requires_grad], "lr": self.params.lr}]

    def before_step(self, model: nn.Module, step: int, num_steps: int) -> None:
        """Nothing changes."""

    def scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """None."""
        return {}

    def samples(self, model: nn.Module, batch: Batch) -> dict[str, Float[Tensor, "_"]]:
        """`vqa_loss` and `acc_<threshold>` of every trial."""
        logits, label = model.answer(batch["slots"]), batch["label"]
        probable, solved = logits.sigmoid(), label.bool()
        right = {f"acc_{threshold:.2f}": ((probable > threshold) == solved).float() for threshold in THRESHOLDS}
        return {"vqa_loss": answer_losses(logits, label), **right}

    def videos(self, model: nn.Module) -> dict[str, UInt8[Tensor, "T 3 H W"]]:
        """`video0`, `video1`, ... of the validation, each below its label and how probable the model finds success."""
        found, device = {}, next(model.parameters()).device
        for number, (trial, frames) in enumerate(self._shown.items()):
            batch = to_device(self._validation.read(np.array([trial])), device)
            probable = float(model.answer(batch["slots"]).sigmoid())
            found[f"video{number}"] = captioned(frames, f"label {int(batch['label'])}, predicted {probable:.2f}")
        return found

    @cached_property
    def _validation(self) -> RolloutSlots:
        return open_slots(self.params, "val")

    @cached_property
    def _shown(self) -> dict[int, UInt8[Tensor, "T 3 H W"]]:
        """`n_samples` trials by their places in the set."""
        if not self.params.n_samples:
            return {}
        trials, videos = visualised_videos(self.params.n_samples, len(self._validation)), open_videos(self.params)
        return dict(zip(trials.tolist(), videos.read(trials)["video"]))


def build_method(params: BaseParams) -> SuccessMethod:
    """The method of the classifier."""
    return SuccessMethod(params)
