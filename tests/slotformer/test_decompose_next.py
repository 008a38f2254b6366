"""A video that comes clip by clip has the slots, masks and pictures of the whole video."""

from pathlib import Path

import pytest
import torch
from torch import nn

from core.nn.noise import ImageNoise
from slotdiffusion import video_based
from slotformer import base_slots
from slotformer.framework.params import load_params, parse_overrides
from tests.slotdiffusion_runs import small_params
from tests.slotformer_runs import CONFIGS, SMALL


def of_slotformer(name: str) -> nn.Module:
    overrides = parse_overrides(("resolution=(32,32)", *SMALL[name]))
    return base_slots.build_model(load_params(CONFIGS / f"{name}.py", base_slots.Keys, overrides))


def of_slotdiffusion(kind: str) -> nn.Module:
    return video_based.build_model(small_params(kind, Path("nowhere")))


MODELS = {
    "savi": lambda: of_slotformer("savi_obj3d_params"),
    "stochastic savi": lambda: of_slotformer("stosavi_clevrer_params"),
    "steve": lambda: of_slotformer("steve_physion_params"),
    "slotdiffusion's savi": lambda: of_slotdiffusion("savi"),
    "slotdiffusion's steve": lambda: of_slotdiffusion("steve"),
    "slotdiffusion": lambda: of_slotdiffusion("savi_ldm"),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_clips_hand_over(name: str):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    video = torch.rand(1, 5, 3, 32, 32)

    def noise():
        return ImageNoise(3, [7]).at(0, video.device)

    whole = model.decompose({"video": video}, noise())
    state, draws, found = None, noise(), []
    for clip in video.split(2, dim=1):
        part, state = model.decompose_next({"video": clip}, draws, state)
        found.append(part.validate())
    for field in ("slots", "masks", "recon"):
        if not (field == "recon" and name == "slotdiffusion"):  # which draws in another order
            ours = torch.cat([getattr(part, field) for part in found], dim=1)
            torch.testing.assert_close(ours, getattr(whole, field), rtol=1e-4, atol=1e-5)
    first, _ = model.decompose_next({"video": video[:, 2:]}, noise())
    assert not torch.allclose(first.slots[:, 0], found[1].slots[:, 0], atol=1e-3), "the state matters"
