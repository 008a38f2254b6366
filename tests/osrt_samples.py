"""Small models of OSRT and samples of made-up scenes."""

import numpy as np
import torch

from core.data.loader import Batch
from osrt.models import LightField, build_model
from tests.osrt_runs import DECODER, ENCODER, SLOTS


def small_model(decoder: str = "slot_mixer", seed: int = 0) -> LightField:
    """With an encoder that fits the decoder."""
    torch.manual_seed(seed)
    if decoder == "srt":
        return build_model("srt", ENCODER, "srt", DECODER | {"latent_dim": 16})
    sizes = DECODER if decoder == "slot_mixer" else {"latent_dim": 24, "hidden_dim": 16}
    return build_model("osrt", ENCODER | SLOTS, decoder, sizes)


def samples(count: int, num_points: int = 30, masks: bool = True) -> Batch:
    """As `take_views` gives them; two input views of 8 by 8."""
    generator = np.random.default_rng(0)
    cameras = torch.from_numpy(generator.normal(size=(count, 2, 3, 4)))
    made = {
        "input_images": torch.from_numpy(generator.integers(0, 256, (count, 2, 3, 8, 8), np.uint8)),
        "input_cameras": cameras,
        "target_pixels": torch.from_numpy(generator.integers(0, 256, (count, num_points, 3), np.uint8)),
        "target_cameras": cameras,
        "target_points": torch.from_numpy(generator.integers(0, 2, (count, num_points, 3), np.int16)),
    }
    if masks:
        made["target_masks"] = torch.from_numpy(generator.integers(0, 4, (count, num_points), np.uint8))
    return made
