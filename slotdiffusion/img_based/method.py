"""How models of pictures are trained, validated and shown, beside their losses."""

from functools import cached_property

import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from core.data.clips import visualised_videos
from core.data.loader import Batch, BatchSource, to_device
from core.nn.noise import ImageNoise, Noise, derive_seed
from slotdiffusion.framework import method
from slotdiffusion.framework.grids import masked_grid, side_by_side, slots_grid
from slotdiffusion.framework.method import Averaging, PerceptualMethod, SegmentingMethod, sampled_rows
from slotdiffusion.img_based.data import has_masks, open_split
from slotformer.base_slots.method import BaseMethod, DVAEMethod, STEVEMethod
from slotformer.framework.frame_grids import to_bytes
from slotformer.framework.params import BaseParams

Shown = dict[str, UInt8[Tensor, "3 H W"] | Float[Tensor, ""]]


class PictureMethod(BaseMethod):
    """Of all models of pictures."""

    @cached_property
    def validation(self) -> BatchSource:
        """The pictures of that split."""
        return open_split(self.params, "val", False)

    def has_masks(self) -> bool:
        return has_masks(self.params)

    def shown_pictures(self, model: nn.Module) -> tuple[Batch, Noise]:
        """`n_samples` pictures of the validation split, on the model's device, and their noise."""
        indices = visualised_videos(self.params.n_samples, len(self.validation))
        device = next(model.parameters()).device
        noise = ImageNoise(derive_seed(self.params.seed, 4), indices.tolist())
        return to_device(self.validation.read(indices), device), noise.at(0, device)


class AutoencoderMethod(PictureMethod):
    """Of models without slots."""

    def videos(self, model: nn.Module) -> Shown:
        """`imgs`: pictures and what their codes say."""
        batch, _ = self.shown_pictures(model)
        return {"imgs": below_each_other(side_by_side([batch["image"], model.decompose(batch).recon]))}


class VQVAEMethod(AutoencoderMethod, PerceptualMethod):
    """LPIPS is part of the loss."""


class DiscreteVAEMethod(AutoencoderMethod, DVAEMethod):
    """The temperature falls."""


class SegmentingPicturesMethod(PictureMethod, SegmentingMethod):
    """Of models with slots: pictures may have semantic masks beside those of their objects."""

    def segmentation_scores(self, batch: Batch, labels: Int64[Tensor, "B H W"]) -> dict[str, Float64[Tensor, "B"]]:
        """Those of the objects' masks, and the scores of semantic ones behind `sem/`."""
        scores = super().segmentation_scores(batch, labels)
        if "semantic" in batch:
            of_classes = super().segmentation_scores(batch | {"mask": batch["semantic"]}, labels)
            scores |= {f"sem/{name}": values for name, values in of_classes.items()}
        return scores


class SAMethod(SegmentingPicturesMethod):
    """Slot Attention's."""

    def videos(self, model: nn.Module) -> Shown:
        """`imgs`: pictures, their reconstructions, masks and every slot."""
        batch, _ = self.shown_pictures(model)
        found = model.decompose(batch)
        return {"imgs": below_each_other(slots_grid(batch["image"], found.recon, found.rgb, found.masks))}


class SLATEMethod(SegmentingPicturesMethod, STEVEMethod):
    """SLATE's: two learning rates, a dVAE trained before."""

    def videos(self, model: nn.Module) -> Shown:
        """`imgs`: pictures and what each slot attends to. `recon`: pictures and what is generated of their slots.

        `sample_img_recon_loss`: squared error of the latter in [-1, 1].
        """
        batch, _ = self.shown_pictures(model)
        found = model.decompose(batch, generate=True)
        return {
            "imgs": below_each_other(masked_grid(batch["image"], found.masks)),
            "recon": below_each_other(side_by_side([batch["image"], found.recon])),
            "sample_img_recon_loss": F.mse_loss(2 * found.recon, 2 * batch["image"]),
        }


class DiffusionMethod(SegmentingPicturesMethod, method.DiffusionMethod):
    """SlotDiffusion's."""

    def videos(self, model: nn.Module) -> Shown:
        """`imgs`: pictures and what each slot attends to. `recon`: pictures and what DPM-Solver++ makes of their slots.

        `diffusion_row` and `denoise_row`: see `sampled_rows`; every picture begins at noise of its own.
        `dpm_sample_img_recon_loss`: squared error of the samples in [-1, 1]; not before training begins.
        """
        batch, noise = self.shown_pictures(model)
        image, decoder = batch["image"], model.dm_decoder
        start = noise("start", (len(image), decoder.channels, *decoder.resolution))
        found = sampled_rows(model, batch, model.extract(batch), start, 4 * self.params.val_batch_size)
        unit = {name: [pictures / 2 + 0.5 for pictures in row] for name, row in found.items()}
        grids = {
            "imgs": masked_grid(image, model.segment(batch)),
            "recon": side_by_side([image, unit["denoise_row"][-1]]),
            **{name: side_by_side(row) for name, row in unit.items()},
        }
        error = F.mse_loss(found["denoise_row"][-1], 2 * image - 1)
        scores = {"dpm_sample_img_recon_loss": error} if self.has_begun else {}
        return {name: below_each_other(grid) for name, grid in grids.items()} | scores


class AveragingDiffusionMethod(Averaging, DiffusionMethod):
    """With a running average of the denoiser's weights."""


def below_each_other(rows: Float[Tensor, "S 3 H W"]) -> UInt8[Tensor, "3 H_out W"]:
    """One picture of grids, in bytes."""
    return to_bytes(rows).movedim(0, 1).flatten(1, 2)


METHODS = {
    "VQVAE": VQVAEMethod,
    "dVAE": DiscreteVAEMethod,
    "SA": SAMethod,
    "SLATE": SLATEMethod,
    "SADiffusion": DiffusionMethod,
}


def build_method(params: BaseParams) -> PictureMethod:
    """The method of `params.model`."""
    if params.model == "SADiffusion" and params.dec_dict.get("use_ema", False):
        return AveragingDiffusionMethod(params)
    return METHODS[params.model](params)
