"""How models of dynamics and read-outs are trained and shown, beside their losses."""

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from slotdiffusion.framework.grids import side_by_side
from slotdiffusion.vp_vqa.models import READOUT
from slotformer.framework.frame_grids import stacked_videos, to_bytes
from slotformer.framework.params import BaseParams
from slotformer.physion_vqa.method import ReadoutMethod
from slotformer.video_prediction.method import SlotFormerMethod, load_parts

PHYSION_FPS = 16


class LDMSlotFormerMethod(SlotFormerMethod):
    """SlotDiffusion's decoder is taken over; videos of what it makes of slots and of predictions."""

    def __init__(self, params: BaseParams):
        super().__init__(params)
        self.fps = PHYSION_FPS // params.frame_offset

    def initialise(self, model: nn.Module) -> None:
        """Load the decoder of the SlotDiffusion that has made the slots."""
        part = {"dm_decoder": "dm_decoder"}
        load_parts(model, self.params, "dec_dict.dec_ckp_path", "SAViDiffusion", part, "video_based")

    def videos(self, model: nn.Module) -> dict[str, UInt8[Tensor, "T 3 H W"]]:
        """Frames beside: `video`, the slots of the files; `rollout_video`, predicted ones; `compare_video`, both.

        Both begin at the same noise, so that they differ by their slots.
        """
        grids: dict[str, list[Tensor]] = {"video": [], "rollout_video": [], "compare_video": []}
        for batch, noise in self.shown(model):
            frames, slots, seen = batch["video"][0], batch["slots"], model.history_len
            size = (model.dm_decoder.channels, *model.dm_decoder.resolution)
            starts = noise.at(0, slots.device)("start", (*slots.shape[:2], *size))
            predicted = model.rollout(slots[:, :seen], slots.shape[1] - seen)
            true = model.generate(slots, lambda name, shape, starts=starts: starts)
            future = model.generate(predicted, lambda name, shape, later=starts[:, seen:]: later)
            recon, rollout = ((video[0] / 2 + 0.5) for video in (true, torch.cat([true[:, :seen], future], dim=1)))
            columns = {
                "video": [frames, recon],
                "rollout_video": [frames, rollout],
                "compare_video": [frames, recon, rollout],
            }
            for name, videos in columns.items():
                grids[name].append(to_bytes(side_by_side(videos)))
        return {name: stacked_videos(rows) for name, rows in grids.items()}


def build_method(params: BaseParams) -> LDMSlotFormerMethod | ReadoutMethod:
    """The method of `params.model`."""
    return ReadoutMethod(params) if params.model == READOUT else LDMSlotFormerMethod(params)
