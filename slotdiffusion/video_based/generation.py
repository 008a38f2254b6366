"""Videos that models of slots generate, for the scripts that compare them with real ones.

Shapes: B videos, T frames, N slots, D slot size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.data.clip_reader import ClipReader
from core.nn.noise import Noise, derive_seed
from slotdiffusion.models.savi import SAVi
from slotdiffusion.models.savi_diffusion import SAViDiffusion
from slotdiffusion.models.steve import STEVE
from slotdiffusion.video_based.data import open_data
from slotformer.framework.params import BaseParams

MODELS = ("SAViDiffusion", "SAVi", "STEVE")
"""That have slots and pictures of them."""
TOKEN_FRAMES = 24
"""Whose words are generated in one pass."""


def open_test_videos(params: BaseParams) -> ClipReader:
    """Whole videos of the test split; of Physion's training and readout subsets, which have none, the validation's."""
    has_test = params.dataset in ("movi", "steve_movi", "physion_test")
    return open_data(params, "test" if has_test else "val", None)


def described_data(params: BaseParams, source: ClipReader) -> dict[str, Any]:
    """What decides which frames `source` has."""
    keys = ("dataset", "movi_level", "tasks", "data_root", "resolution", "video_len", "frame_offset")
    return {key: params.to_dict()[key] for key in keys if key in params} | {"split": source.path.name}


def picture_of(
    model: SAViDiffusion | SAVi | STEVE, slots: Float[Tensor, "B T N D"], noise: Noise
) -> Float[Tensor, "B T 3 H W"]:
    """What the model's decoder makes of slots, in [-1, 1] but for errors.

    SlotDiffusion samples with DPM-Solver++ from the draw `start` (B, T, C, h, w); SAVi decodes; STEVE generates each
    frame word by word, the most likely word after the most likely word.
    """
    if isinstance(model, SAViDiffusion):
        return model.generate(slots, noise).float()
    if isinstance(model, SAVi):
        clips = slots.split(model.clip_len, dim=1)
        return torch.cat([model.decode(clip).recon for clip in clips], dim=1).float()
    pictures = []
    for frames in slots.flatten(0, 1).split(TOKEN_FRAMES):
        tokens = model.trans_decoder.generate(frames).tokens
        pictures.append(model.dvae.detokenize(tokens.unflatten(1, model.words_size)).float())
    return torch.cat(pictures).unflatten(0, slots.shape[:2])


def start_noise(seed: int, videos: Sequence[int], device: torch.device) -> Noise:
    """One draw for all frames of a video, keyed by (seed, video): the same in any batch and process."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        generators = [torch.Generator().manual_seed(derive_seed(seed, int(video))) for video in videos]
        starts = [torch.randn(1, *shape[2:], generator=generator) for generator in generators]
        return torch.stack(starts).to(device).expand(shape)

    return draw


def to_pixels(pictures: Float[Tensor, "B T 3 H W"]) -> UInt8[Tensor, "B T H W 3"]:
    """Bytes of pictures in [-1, 1], rounded; what is outside is cut off."""
    return (pictures / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu()


def pixels_of(batch: Mapping[str, Tensor]) -> UInt8[Tensor, "B T H W 3"]:
    """Those of a batch on the device, as they were read."""
    return to_pixels(2 * batch["video"] - 1)
