"""How models of videos and of pictures are trained and validated alike, beside their losses.

Shapes: S frames or pictures, N slots, D slot size.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from core.data.loader import Batch
from core.metrics.perceptual import load_lpips
from core.metrics.pretrained import MissingWeightsError
from core.metrics.segmentation import hard_labels, segmentation_scores
from slotdiffusion.framework.frozen_codes import check_autoencoder
from slotdiffusion.models.dino import load_dino
from slotdiffusion.models.savi_diffusion import SAViDiffusion
from slotdiffusion.models.vqvae import load_vqvae
from slotformer.base_slots.method import BaseMethod
from slotformer.base_slots.models.steve import parameter_groups
from slotformer.framework.collapse import usage
from slotformer.framework.params import BaseParams, ParamsError


class PerceptualMethod(BaseMethod):
    """Of the VQ-VAE: LPIPS is part of its loss."""

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


class SegmentingMethod(BaseMethod, ABC):
    """Of models with slots: validation scores segmentations, too, where there are masks."""

    def __init__(self, params: BaseParams):
        super().__init__(params)
        self.best_by = "fari" if self.has_masks() else "loss"
        self.has_begun = False
        """Training, in this process."""

    @abstractmethod
    def has_masks(self) -> bool:
        """Whether the split for validation comes with masks."""

    def initialise(self, model: nn.Module) -> None:
        """Load the published weights of DINO, if slots look through it. Raises ParamsError where these are not."""
        super().initialise(model)
        name, path = self.params.enc_dict.get("dino", ""), self.params.get("dino_ckp_path")
        if not name:
            return
        try:
            load_dino(model.encoder, name, Path(path) if path else None)
        except MissingWeightsError as error:
            raise ParamsError(f"enc_dict: dino={name!r}: {error}. --set dino_ckp_path=FILE names the file") from error

    def before_step(self, model: nn.Module, step: int, num_steps: int) -> None:
        """Before the first step make sure that the training reads codes of the model's own autoencoder."""
        if not self.has_begun:
            check_autoencoder(self.params, model)
            self.has_begun = True

    def samples(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss, signs of collapse, and with masks `ari`, `fari`, `miou`, `fmiou` and `mbo`.

        Samples without objects have no value of some of these.
        """
        terms, masks = model.loss_and_masks(batch, 0)
        means = terms | usage(masks if masks.ndim == 5 else masks.unsqueeze(1))
        scores = {name: value.float().expand(len(masks)) for name, value in means.items()}
        if "mask" in batch:
            found = self.segmentation_scores(batch, hard_labels(masks))
            scores |= {name: values[~values.isnan()] for name, values in found.items()}
        return scores

    def segmentation_scores(self, batch: Batch, labels: Int64[Tensor, "B *T H W"]) -> dict[str, Float64[Tensor, "B"]]:
        """Of the samples of a batch with masks; NaN where one has no value."""
        as_original = self.params.get("as_original", False)
        return segmentation_scores(batch["mask"], labels, batch.get("overlap"), as_original=as_original)


class DiffusionMethod(SegmentingMethod):
    """SlotDiffusion's: two learning rates, a VQ-VAE trained before."""

    floor = 0.0

    def initialise(self, model: nn.Module) -> None:
        """Load the VQ-VAE, and DINO as above. Raises ParamsError if its file is not named or not there."""
        super().initialise(model)
        if model.dm_decoder.vae is not None:
            load_vqvae(model.dm_decoder.vae.vqvae, self.params.dec_dict["vae_dict"].get("vqvae_ckp_path"))

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The denoiser at `dec_lr`, the rest at `lr`."""
        return parameter_groups(model, self.params.lr, self.params.dec_lr, "dm_decoder")

    def scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """The second rate."""
        return {"dec_lr": optimizer.param_groups[1]["lr"]}


class Averaging:
    """What a method of SlotDiffusion inherits, too, whose denoiser has a running average of its weights."""

    def after_step(self, model: nn.Module) -> None:
        """Move the average."""
        model.dm_decoder.update_average()


def sampled_rows(
    model: SAViDiffusion,
    batch: Batch,
    slots: Float[Tensor, "S N D"],
    start: Float[Tensor, "#S C h w"],
    at_a_time: int,
) -> dict[str, list[Float[Tensor, "S 3 H W"]]]:
    """What diffusion makes of a batch and its slots, column by column, in [-1, 1] but for errors.

    `diffusion_row`: the picture as the VQ-VAE has it, then with more and more noise. `denoise_row`: the states of
    DPM-Solver++ from `start` on, of which the last is the sample. `at_a_time` bounds the memory and changes no number.
    """
    decoder, starts = model.dm_decoder, start.expand(len(slots), -1, -1, -1)
    with decoder.average_scope():
        parts = [
            decoder.sample_states(few, lambda name, shape, begin=begin: begin)
            for few, begin in zip(slots.split(at_a_time), starts.split(at_a_time))
        ]
    states = [torch.cat(of_parts) for of_parts in zip(*parts)]
    last, clean = len(decoder.schedule) - 1, decoder.clean(batch)
    times = [*range(0, last, decoder.settings.log_every_t), last]
    noisy = [decoder.noisy(clean, torch.tensor([time], device=start.device), starts) for time in times]
    return {
        "diffusion_row": [decoder.decode(latents) for latents in (clean, *noisy)],
        "denoise_row": [decoder.decode(latents) for latents in states],
    }
