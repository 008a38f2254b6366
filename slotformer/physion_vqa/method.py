"""How read-outs of Physion are trained, validated and shown, beside their loss."""

import sys
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from core.data.clips import visualised_videos
from core.data.errors import DataError
from core.data.loader import Batch, to_device
from core.data.physion import SCENARIOS
from core.data.video import decode_video, folder_or_mp4
from slotformer.framework.frame_grids import captioned
from slotformer.framework.params import BaseParams
from slotformer.physion_vqa.data import LabelledSlots, open_slots, subset_of
from slotformer.physion_vqa.models.readout import answer_losses

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


class ReadoutMethod:
    """Answers are counted; the videos that they are about are shown if they are there.

    See slotformer.framework.tasks.SampleMethod.
    """

    floor = 0.01
    fps = 16
    best_by = "acc_0.50"

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
        """`vqa_loss` and `acc_<threshold>` of every video, and of each scenario's `acc_0.50/<scenario>`."""
        logits, label = model.answer(batch["slots"]), batch["label"]
        right = {
            f"acc_{threshold:.2f}": ((logits.sigmoid() > threshold) == label.bool()).float() for threshold in THRESHOLDS
        }
        by_scenario = {
            f"{self.best_by}/{scenario}": right[self.best_by][batch["scenario"] == place]
            for place, scenario in enumerate(SCENARIOS)
        }
        return {"vqa_loss": answer_losses(logits, label), **right, **by_scenario}

    def videos(self, model: nn.Module) -> dict[str, UInt8[Tensor, "T 3 H W"]]:
        """`video0`, `video1`, ... of the validation, each below its label and how probable the model finds a touch."""
        found, device = {}, next(model.parameters()).device
        for number, (index, frames) in enumerate(self._shown.items()):
            batch = to_device(self._validation.read(np.array([index])), device)
            probable = float(model.answer(batch["slots"]).sigmoid())
            found[f"video{number}"] = captioned(frames, f"label {int(batch['label'])}, predicted {probable:.2f}")
        return found

    @cached_property
    def _validation(self) -> LabelledSlots:
        return open_slots(self.params, subset_of(self.params), "val")

    @cached_property
    def _shown(self) -> dict[int, UInt8[Tensor, "T 3 H W"]]:
        """`n_samples` videos by their places in the set; none, which is said, if they cannot be read."""
        source = self._validation
        read = partial(_read_frames, length=source.num_frames, size=tuple(self.params.resolution))
        try:
            return {
                index: read(Path(self.params.data_root) / source.videos[index].path)
                for index in visualised_videos(self.params.n_samples, len(source)).tolist()
            }
        except DataError as error:
            print(f"note: no videos in the log, slots and labels are enough to train: {error}", file=sys.stderr)
            return {}


def _read_frames(mp4: Path, length: int, size: tuple[int, int]) -> UInt8[Tensor, "T 3 H W"]:
    stems = [f"{number:06d}" for number in range(length)]
    frames = decode_video(folder_or_mp4(mp4), stems=stems, size=size)
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def build_method(params: BaseParams) -> ReadoutMethod:
    """The method of the read-out."""
    return ReadoutMethod(params)
