"""Videos and pictures that models of slots generate, for the scripts that compare them with real ones.

Shapes: B videos, or pictures as videos of one frame, T frames, N slots, D slot size.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from core.data.loader import BatchSource
from core.nn.noise import Noise, derive_seed
from slotdiffusion.framework.frozen_codes import OF_LATENTS
from slotdiffusion.framework.output_folders import SampleFolder
from slotdiffusion.models.savi import SAVi
from slotdiffusion.models.savi_diffusion import SAViDiffusion
from slotdiffusion.models.steve import STEVE
from slotformer.framework.params import BaseParams, ParamsError

TOKEN_FRAMES = 24
"""Whose words are generated in one pass."""
SAMPLING = (*OF_LATENTS, "LDMSlotFormer")
"""Models whose pictures a solver finds."""
Scores = dict[str, float | int]


@dataclass(frozen=True)
class Medium:
    """What the models of a task generate, and how the scripts that all tasks share get hold of it."""

    task: ModuleType
    models: tuple[str, ...]
    """That have slots and pictures of them."""
    name: str
    """videos or pictures."""
    folder: type[SampleFolder]
    suffix: str
    """Of the names of folders: vids or imgs."""
    open_test: Callable[[BaseParams], tuple[BatchSource, dict[str, Any]]]
    """Whole samples of the test split, and what decides which these are."""
    distance: Callable[[SampleFolder, SampleFolder, BatchSource, torch.device], tuple[Scores, str | None]]
    """Between real and generated samples; nothing, and why, where it cannot be had."""


def picture_of(
    model: SAViDiffusion | SAVi | STEVE, slots: Float[Tensor, "B T N D"], noise: Noise, **solver: Any
) -> Float[Tensor, "B T 3 H W"]:
    """What the model's decoder makes of slots, in [-1, 1] but for errors.

    SlotDiffusion samples as `solver` says from the draw `start` (B, T, C, h, w); SAVi decodes; STEVE generates each
    frame word by word, the most likely word after the most likely word. So do their like for pictures.
    """
    if isinstance(model, SAViDiffusion):
        return model.generate(slots, noise, **solver)
    if isinstance(model, SAVi):
        clips = slots.split(model.clip_len, dim=1)
        return torch.cat([model.decode(clip).recon for clip in clips], dim=1).float()
    pictures = []
    for frames in slots.flatten(0, 1).split(TOKEN_FRAMES):
        tokens = model.trans_decoder.generate(frames).tokens
        pictures.append(model.dvae.detokenize(tokens.unflatten(1, model.words_size)).float())
    return torch.cat(pictures).unflatten(0, slots.shape[:2])


def start_noise(seed: int, samples: Sequence[int] | np.ndarray, device: torch.device) -> Noise:
    """One draw for all frames of a sample, keyed by (seed, sample): the same in any batch and process."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        generators = [torch.Generator().manual_seed(derive_seed(seed, int(sample))) for sample in samples]
        starts = [torch.randn(1, *shape[2:], generator=generator) for generator in generators]
        return torch.stack(starts).to(device).expand(shape)

    return draw


@dataclass(frozen=True)
class Sampling:
    """How the scripts make pictures of slots."""

    seed: int
    solver: Mapping[str, Any]
    """What --solver and --solver_steps say to `picture_of`."""

    @staticmethod
    def of(arguments: Namespace, params: BaseParams) -> "Sampling":
        """Raises ParamsError where there is nothing to solve for."""
        given = {"sampler": arguments.solver, "steps": arguments.solver_steps}
        solver = {name: value for name, value in given.items() if value is not None}
        if solver and params.model not in SAMPLING:
            raise ParamsError(f"--solver, --solver_steps: {params.model} does not sample its pictures; leave them out")
        return Sampling(arguments.seed, solver)

    def check(self, model: nn.Module) -> None:
        """Raises ValueError for a number of steps that the model's solver cannot take; before anything is claimed."""
        if self.solver:
            model.dm_decoder.number_of_steps(**self.solver)

    @property
    def decisive(self) -> dict[str, Any]:
        """What the pictures depend on."""
        return {**self.solver, "seed": self.seed}

    def pictures(
        self, model: SAViDiffusion | SAVi | STEVE, slots: Float[Tensor, "B T N D"], samples: Sequence[int] | np.ndarray
    ) -> Float[Tensor, "B T 3 H W"]:
        """Those of samples with these numbers, see `start_noise`."""
        return picture_of(model, slots, start_noise(self.seed, samples, slots.device), **self.solver)


def slots_of(model: nn.Module, batch: dict[str, Tensor]) -> Float[Tensor, "B T N D"]:
    """Of all frames of a batch."""
    slots = model.extract(batch)
    return slots if "video" in batch else slots.unsqueeze(1)


def videos_of(batch: Mapping[str, Tensor]) -> Float[Tensor, "B T 3 H W"]:
    """What a batch shows, in [0, 1]."""
    return batch["video"] if "video" in batch else batch["image"].unsqueeze(1)


def to_pixels(pictures: Float[Tensor, "B T 3 H W"]) -> UInt8[Tensor, "B T H W 3"]:
    """Bytes of pictures in [-1, 1], rounded; what is outside is cut off."""
    return (pictures / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu()


def pixels_of(batch: Mapping[str, Tensor]) -> UInt8[Tensor, "B T H W 3"]:
    """Those of a batch on the device, as they were read."""
    return to_pixels(2 * videos_of(batch) - 1)
