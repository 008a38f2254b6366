"""How read-outs of Physion are trained, validated and shown, beside their loss."""

import sys
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from core.data.clips import visualised_videos
from core.data.errors import DataError
from core.data.loader import Batch
from core.data.physion import SCENARIOS
from core.data.video import decode_video, folder_or_mp4
from slotformer.framework.answers import AnswerMethod
from slotformer.framework.params import BaseParams
from slotformer.physion_vqa.data import LabelledSlots, open_slots, subset_of


class ReadoutMethod(AnswerMethod):
    """Answers are counted; the videos that they are about are shown if they are there."""

    fps = 16

    def samples(self, model: nn.Module, batch: Batch) -> dict[str, Float[Tensor, "_"]]:
        """Those of all read-outs, and each scenario's `acc_0.50/<scenario>`."""
        found = super().samples(model, batch)
        by_scenario = {
            f"{self.best_by}/{scenario}": found[self.best_by][batch["scenario"] == place]
            for place, scenario in enumerate(SCENARIOS)
        }
        return {**found, **by_scenario}

    @cached_property
    def validation(self) -> LabelledSlots:
        """The videos of the validation split."""
        return open_slots(self.params, subset_of(self.params), "val")

    @cached_property
    def shown(self) -> dict[int, UInt8[Tensor, "T 3 H W"]]:
        """`n_samples` videos by their places in the set; none, which is said, if they cannot be read."""
        source = self.validation
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
