"""How models of videos are trained, validated and shown, beside their losses."""

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from core.data.loader import Batch, BatchSource
from core.metrics.perceptual import load_lpips
from core.metrics.pretrained import MissingWeightsError
from core.metrics.segmentation import hard_labels, segmentation_scores
from core.nn.noise import Noise
from slotdiffusion.models.savi_diffusion import SAViDiffusion
from slotdiffusion.models.vqvae import load_vqvae
from slotdiffusion.video_based.data import has_masks, open_validation
from slotdiffusion.video_based.encoded_clips import check_autoencoder
from slotdiffusion.video_based.grids import hardened, masked_grid, side_by_side, slots_grid
from slotformer.base_slots.method import BaseMethod, DVAEMethod, STEVEMethod
from slotformer.base_slots.models.steve import parameter_groups
from slotformer.framework.collapse import usage
from slotformer.framework.frame_grids import stacked_videos, to_bytes
from slotformer.framework.params import BaseParams, ParamsError

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


class VQVAEMethod(VideoMethod):
    """LPIPS is part of the loss; videos of the frame and what its codes say."""

    videos = DVAEMethod.videos

    def prepare(self, model: nn.Module) -> None:
        """Set LPIPS, if it counts. Raises ParamsError where its weights are not."""
        if model.percept_loss_w <= 0:
            return
        try:
            model.lpips = load_lpips("vgg")
        except MissingWeightsError as error:
            raise ParamsError(
                f"percept_loss_w={model.percept_loss_w}: {error}. To train by squared errors, in another way than the "
                "published VQ-VAEs, give --set percept_loss_w=0"
            ) from error


class DiscreteVAEMethod(VideoMethod, DVAEMethod):
    """The temperature falls; videos of the frame and what its words say."""


class SegmentingMethod(VideoMethod):
    """Of models with slots: validation scores segmentations, too, where there are masks."""

    def __init__(self, params: BaseParams):
        super().__init__(params)
        self.best_by = "fari" if has_masks(params) else "loss"
        self._is_checked = False

    def before_step(self, model: nn.Module, step: int, num_steps: int) -> None:
        """Before the first step make sure that the training reads codes of the model's own autoencoder."""
        if not self._is_checked:
            check_autoencoder(self.params, model)
            self._is_checked = True

    def samples(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss, signs of collapse, and with masks `ari`, `fari`, `miou`, `fmiou` and `mbo` of clips.

        Clips without objects have no value of some of these.
        """
        count = len(batch["video"])
        masks = model.segment(batch)
        means = model.loss(batch, 0) | usage(masks)
        scores = {name: value.float().expand(count) for name, value in means.items()}
        if "mask" in batch:
            as_original = self.params.get("as_original", False)
            found = segmentation_scores(batch["mask"], hard_labels(masks), as_original=as_original)
            scores |= {name: values[~values.isnan()] for name, values in found.items()}
        return scores

    def masked_videos(self, model: nn.Module) -> dict[str, list[Tensor]]:
        """`masked_video`, `hard_masked_video` and, where masks are known, `gt_masked_video`; one by one."""
        grids: dict[str, list[Tensor]] = {"masked_video": [], "hard_masked_video": []}
        truths = []
        for batch, _ in self.shown(model):
            video, masks = batch["video"][0], model.segment(batch)[0]
            hard = hardened(masks.argmax(dim=1), masks.shape[1])
            grids["masked_video"].append(to_bytes(masked_grid(video, masks)))
            grids["hard_masked_video"].append(to_bytes(masked_grid(video, hard)))
            if "mask" in batch:
                truths.append((video, batch["mask"][0]))
        if truths:
            most = max(int(labels.max()) for _, labels in truths) + 1
            grids["gt_masked_video"] = [
                to_bytes(masked_grid(video, hardened(labels, most))) for video, labels in truths
            ]
        return grids


class SAViMethod(SegmentingMethod):
    """Videos of the frame, its reconstruction and every slot."""

    def videos(self, model: nn.Module) -> Videos:
        """`video`."""
        grids = []
        for batch, _ in self.shown(model):
            found = model.decompose(batch)
            grids.append(to_bytes(slots_grid(batch["video"][0], found.recon[0], found.rgb[0], found.masks[0])))
        return {"video": stacked_videos(grids)}


class TokenMethod(SegmentingMethod, STEVEMethod):
    """STEVE's: two learning rates, a dVAE trained before; videos of what each slot attends to."""

    def videos(self, model: nn.Module) -> Videos:
        """`masked_video` and `gt_masked_video`."""
        grids = self.masked_videos(model)
        del grids["hard_masked_video"]
        return stacked(grids)


class DiffusionMethod(SegmentingMethod):
    """SlotDiffusion's: two learning rates, a VQ-VAE trained before; videos of masks and of what slots generate."""

    floor = 0.0

    def initialise(self, model: nn.Module) -> None:
        """Load the VQ-VAE. Raises ParamsError if its file is not named or not there."""
        if model.dm_decoder.vae is not None:
            load_vqvae(model.dm_decoder.vae.vqvae, self.params.dec_dict["vae_dict"].get("vqvae_ckp_path"))

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The denoiser at `dec_lr`, the rest at `lr`."""
        return parameter_groups(model, self.params.lr, self.params.dec_lr, "dm_decoder")

    def scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """The second rate."""
        return {"dec_lr": optimizer.param_groups[1]["lr"]}

    def videos(self, model: nn.Module) -> Videos:
        """What `masked_videos` gives, and of the same videos what DPM-Solver++ makes of their slots.

        `video`: frame and sample. `diffusion_row`: the frame as the VQ-VAE has it, then with more and more noise.
        `denoise_row`: the states of the solver. `dpm_sample_video_recon_loss`: squared error of the samples in [-1, 1].
        """
        grids = self.masked_videos(model) | {"video": [], "diffusion_row": [], "denoise_row": []}
        errors = []
        for batch, noise in self.shown(model):
            found = sampled_rows(model, batch, noise.at(0, batch["video"].device), 4 * self.params.val_batch_size)
            errors.append(F.mse_loss(found["denoise_row"][-1], 2 * batch["video"][0] - 1))
            unit = {name: [frames / 2 + 0.5 for frames in row] for name, row in found.items()}
            unit["video"] = [batch["video"][0], unit["denoise_row"][-1]]
            for name, row in unit.items():
                grids[name].append(to_bytes(side_by_side(row)))
        return stacked(grids) | {"dpm_sample_video_recon_loss": torch.stack(errors).mean()}


class AveragingDiffusionMethod(DiffusionMethod):
    """With a running average of the denoiser's weights."""

    def after_step(self, model: nn.Module) -> None:
        """Move the average."""
        model.dm_decoder.update_average()


def stacked(grids: dict[str, list[Tensor]]) -> Videos:
    """Those of one name below each other."""
    return {name: stacked_videos(rows) for name, rows in grids.items()}


def sampled_rows(
    model: SAViDiffusion, batch: Batch, noise: Noise, frames_at_a_time: int
) -> dict[str, list[Float[Tensor, "T 3 H W"]]]:
    """`diffusion_row` and `denoise_row` of a batch of one video, in [-1, 1] but for errors; see `DiffusionMethod`.

    All frames begin at the same noise, the draw `start`.
    """
    decoder, slots = model.dm_decoder, model.extract(batch)[0]
    start = noise("start", (1, decoder.channels, *decoder.resolution))

    def sample(slots: Float[Tensor, "S N D"]) -> list[Tensor]:
        return decoder.sample_states(slots, lambda name, shape: start, same_noise=True)

    with decoder.average_scope():
        parts = [sample(few) for few in slots.split(frames_at_a_time)]
    states = [torch.cat(of_parts) for of_parts in zip(*parts)]
    last, clean = len(decoder.schedule) - 1, decoder.clean(batch)
    times = [*range(0, last, decoder.settings.log_every_t), last]
    noise_of_all = start.expand_as(clean)
    noisy = [decoder.noisy(clean, torch.tensor([time], device=start.device), noise_of_all) for time in times]
    return {
        "diffusion_row": [decoder.decode(latents) for latents in (clean, *noisy)],
        "denoise_row": [decoder.decode(latents) for latents in states],
    }


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
