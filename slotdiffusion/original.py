"""Checkpoints of the original SlotDiffusion (Wuziyi616/SlotDiffusion): their weights and training states, to ours.

Importing this module makes `slotformer.original` know the models; its functions read and write their checkpoints.
Names are the same. Left out here, beside what SlotFormer's models leave out, are DINO's pooler, which the original
stores and never reads, and the noise schedule, which follows from the configuration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from core.imported import ImportedRun
from slotdiffusion.models.noise_schedule import NoiseSchedule, make_betas
from slotformer import original
from slotformer.original import Layout, Weights


def _pooler(model: nn.Module) -> Weights:
    """Untrained weights, if `model` looks through DINO."""
    if not hasattr(model.encoder, "dino"):
        return {}
    width = model.encoder.dino.hidden_size
    prefix = "encoder.dino.pooler.dense"
    like = model.encoder.dino.layernorm.weight
    return {f"{prefix}.weight": like.new_zeros(width, width), f"{prefix}.bias": like.new_zeros(width)}


def with_dino(layout: Layout) -> Layout:
    """That of a model which may look through DINO."""
    return Layout(
        rf"{layout.unused}|encoder\.dino\.pooler\..+",
        lambda model: layout.unused_weights(model) | _pooler(model),
        (*layout.frozen, "encoder.dino."),
        layout.groups,
        layout.listed,
    )


SCHEDULE = tuple(NoiseSchedule(make_betas(timesteps=1)).buffers())


def _of_decoder(prefix: str, groups: tuple[str, ...] = ("",)) -> Layout:
    """That of latent diffusion, whose names begin with `prefix`: the schedule is stored, and the VQ-VAE optimised."""

    def schedule(model: nn.Module) -> Weights:
        decoder = model.get_submodule(prefix.removesuffix("."))
        return {f"{prefix}{name}": value for name, value in decoder.schedule.buffers().items()}

    frozen = tuple(f"{prefix}{name}" for name in (*SCHEDULE, "model_ema."))
    return Layout(f"{prefix}({'|'.join(SCHEDULE)})", schedule, frozen, groups, (f"{prefix}vae.",))


PIXELS = with_dino(Layout(original.NO_KEY, lambda model: {}))
WORDS = with_dino(original.LAYOUTS["STEVE"])
LATENTS = with_dino(_of_decoder("dm_decoder.", ("", "dm_decoder")))
TASKS = ("img_based", "video_based", "vp_vqa")
LAYOUTS = {
    "VQVAE": Layout(r"loss\..+", lambda model: {}, ("loss.",)),  # of LPIPS
    "SAVi": PIXELS,
    "SA": PIXELS,
    "STEVE": WORDS,
    "SLATE": WORDS,
    "SAViDiffusion": LATENTS,
    "SADiffusion": LATENTS,
    "LatentDiffusion": _of_decoder(""),
    "LDMSlotFormer": replace(_of_decoder("dm_decoder."), frozen=("dm_decoder.",), listed=()),
}
"""By the class of our model, which the original calls the same."""

original.LAYOUTS.update(LAYOUTS)


def import_run(checkpoint: Mapping[str, Any], path: Path, config: str, settings: Sequence[str] = ()) -> ImportedRun:
    """A run of ours from a checkpoint of the original and its params file; see `slotformer.original.import_run`."""
    return original.import_run(checkpoint, path, config, settings, "slotdiffusion", TASKS)
