"""How models of videos are trained, validated and shown, beside their losses."""

from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from core.data.loader import BatchSource
from slotdiffusion.framework import method
from slotdiffusion.framework.grids import hardened, masked_grid, side_by_side, slots_grid
from slotdiffusion.framework.method import Averaging, PerceptualMethod, SegmentingMethod, sampled_rows
from slotdiffusion.video_based.data import has_masks, open_validation
from slotformer.base_slots.method import BaseMethod, DVAEMethod, STEVEMethod
from slotformer.framework.frame_grids import stacked_videos, to_bytes
from slotformer.framework.params import BaseParams

Videos = dict[str, UInt8[Tensor, "T 3 H W"] | Float[Tensor, ""]]
PHYSION_FPS = 16


class VideoMethod(BaseMethod):
    """Of all models of videos."""

    def __init__(self, params: BaseParams):
        super().__init__(params)
        if params.dataset.startswith("physion"):
            self.fps = PHYSION_FPS // params.frame_offset

    @cached_property
    def whole_videos(self) -> BatchSource:
        """Of the split for validation, with masks if there are any."""
        return open_validation(self.params, None)

    def has_masks(self) -> bool:
        return has_masks(self.params)


class VQVAEMethod(VideoMethod, PerceptualMethod):
    """LPIPS is part of the loss; videos of the frame and what its codes say."""

    videos = DVAEMethod.videos


class DiscreteVAEMethod(VideoMethod, DVAEMethod):
    """The temperature falls; videos of the frame and what its words say."""


class SAViMethod(VideoMethod, SegmentingMethod):
    """Videos of the frame, its reconstruction and every slot."""

    def videos(self, model: nn.Module) -> Videos:
        """`video`."""
        grids = []
        for batch, _ in self.shown(model):
            found = model.decompose(batch)
            grids.append(to_bytes(slots_grid(batch["video"][0], found.recon[0], found.rgb[0], found.masks[0])))
        return {"video": stacked_videos(grids)}


class TokenMethod(VideoMethod, SegmentingMethod, STEVEMethod):
    """STEVE's: two learning rates, a dVAE trained before; videos of what each slot attends to."""

    def videos(self, model: nn.Module) -> Videos:
        """`masked_video` and `gt_masked_video`."""
        grids = masked_videos(self, model)
        del grids["hard_masked_video"]
        return stacked(grids)


class DiffusionMethod(VideoMethod, method.DiffusionMethod):
    """SlotDiffusion's; videos of masks and of what slots generate."""

    def videos(self, model: nn.Module) -> Videos:
        """What `masked_videos` gives, and of the same videos what DPM-Solver++ makes of their slots.

        `video`: frame and sample. `diffusion_row` and `denoise_row`: see `sampled_rows`; all frames begin at the same
        noise. `dpm_sample_video_recon_loss`: squared error of the samples in [-1, 1]; not before training begins.
        """
        grids = masked_videos(self, model) | {"video": [], "diffusion_row": [], "denoise_row": []}
        decoder, errors = model.dm_decoder, []
        for batch, noise in self.shown(model):
            draw = noise.at(0, batch["video"].device)
            start = draw("start", (1, decoder.channels, *decoder.resolution))
            found = sampled_rows(model, batch, model.extract(batch)[0], start, 4 * self.params.val_batch_size)
            errors.append(F.mse_loss(found["denoise_row"][-1], 2 * batch["video"][0] - 1))
            unit = {name: [frames / 2 + 0.5 for frames in row] for name, row in found.items()}
            unit["video"] = [batch["video"][0], unit["denoise_row"][-1]]
            for name, row in unit.items():
                grids[name].append(to_bytes(side_by_side(row)))
        scores = {"dpm_sample_video_recon_loss": torch.stack(errors).mean()} if self.has_begun else {}
        return stacked(grids) | scores


class AveragingDiffusionMethod(Averaging, DiffusionMethod):
    """With a running average of the denoiser's weights."""


def masked_videos(method: VideoMethod, model: nn.Module) -> dict[str, list[Tensor]]:
    """`masked_video`, `hard_masked_video` and, where masks are known, `gt_masked_video`; one by one."""
    grids: dict[str, list[Tensor]] = {"masked_video": [], "hard_masked_video": []}
    truths = []
    for batch, _ in method.shown(model):
        video, masks = batch["video"][0], model.segment(batch)[0]
        hard = hardened(masks.argmax(dim=1), masks.shape[1])
        grids["masked_video"].append(to_bytes(masked_grid(video, masks)))
        grids["hard_masked_video"].append(to_bytes(masked_grid(video, hard)))
        if "mask" in batch:
            truths.append((video, batch["mask"][0]))
    if truths:
        most = max(int(labels.max()) for _, labels in truths) + 1
        grids["gt_masked_video"] = [to_bytes(masked_grid(video, hardened(labels, most))) for video, labels in truths]
    return grids


def stacked(grids: dict[str, list[Tensor]]) -> Videos:
    """Those of one name below each other."""
    return {name: stacked_videos(rows) for name, rows in grids.items()}


METHODS = {
    "VQVAE": VQVAEMethod,
    "dVAE": DiscreteVAEMethod,
    "SAVi": SAViMethod,
    "STEVE": TokenMethod,
    "SAViDiffusion": DiffusionMethod,
}


def build_method(params: BaseParams) -> VideoMethod:
    """The method of `params.model`."""
    if params.model == "SAViDiffusion" and params.dec_dict.get("use_ema", False):
        return AveragingDiffusionMethod(params)
    return METHODS[params.model](params)
