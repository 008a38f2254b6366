"""Checks that models of the published configurations store what the original's store, under the same names."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slotdiffusion.models.sa import SA
from slotdiffusion.models.sa_diffusion import SADiffusion
from slotdiffusion.models.savi import SAVi
from slotdiffusion.models.savi_diffusion import SAViDiffusion
from slotdiffusion.models.slate import SLATE
from slotdiffusion.models.steve import STEVE
from slotdiffusion.models.vqvae import VQVAE
from slotdiffusion.vp_vqa.models.ldm_slotformer import LDMSlotFormer
from slotformer import original
from slotformer.base_slots.models.dvae import dVAE
from slotformer.physion_vqa.models.readout import PhysionReadout
from tests.parity.golden import Case, Check

RESNET = {"resnet": "resnet18"}
ENC_DEC = {"resolution": 128, "in_channels": 3, "z_channels": 3, "ch": 64, "ch_mult": (1, 2, 4), "num_res_blocks": 2}
DEC_DICT = {
    "resolution": (32, 32),
    "vae_dict": {"enc_dec_dict": ENC_DEC, "vq_dict": {"n_embed": 4096, "embed_dim": 3}},
    "unet_dict": {"model_channels": 128, "channel_mult": (1, 2, 3, 4), "num_head_channels": 32, "context_dim": 192},
    "diffusion_dict": {"timesteps": 1000, "linear_start": 0.0015, "linear_end": 0.0195},
}


def slots(kind: type[nn.Module], num_slots: int, **options: Any) -> Callable[[], nn.Module]:
    return lambda: kind(num_slots=num_slots, **options)


PUBLISHED = {
    r".*/vqvae_.*": VQVAE,
    r".*/dvae_.*": dVAE,
    r"video_based/savi_movi[de]_.*": slots(SAVi, 15, **RESNET),
    r"video_based/savi_movi(solid|tex)_.*": slots(SAVi, 12),
    r"video_based/savi_ldm_movi[de]_.*": slots(SAViDiffusion, 15, dec_dict=DEC_DICT, **RESNET),
    r"video_based/savi_ldm_movi(solid|tex)_.*": slots(SAViDiffusion, 12, dec_dict=DEC_DICT),
    r"video_based/savi_ldm_physion_.*": slots(SAViDiffusion, 8, dec_dict=DEC_DICT, **RESNET),
    r"video_based/steve_movi[de]_.*": slots(STEVE, 15, **RESNET),
    r"video_based/steve_movi(solid|tex)_.*": slots(STEVE, 12),
    r"img_based/sa_clevrtex_.*": slots(SA, 11, **RESNET),
    r"img_based/sa_celeba_.*": slots(SA, 4, **RESNET),
    r"img_based/sa_ldm_clevrtex_.*": slots(SADiffusion, 11, dec_dict=DEC_DICT, **RESNET),
    r"img_based/sa_ldm_celeba_.*": slots(SADiffusion, 4, dec_dict=DEC_DICT, **RESNET),
    r"img_based/slate_clevrtex_.*": slots(SLATE, 11, **RESNET),
    r"img_based/slate_celeba_.*": slots(SLATE, 4, **RESNET),
    r"vp_vqa/ldmslotformer_physion_.*": slots(LDMSlotFormer, 8, dec_dict=DEC_DICT),
    r"vp_vqa/readout_physion_.*": lambda: PhysionReadout(num_slots=8, slot_size=192),
}
"""By the configuration's name."""


def build(name: str) -> nn.Module:
    """Without weights: only names and shapes."""
    (make,) = (make for pattern, make in PUBLISHED.items() if re.fullmatch(pattern, name))
    with torch.device("meta"):
        return make()


def stored(model: nn.Module) -> dict[str, list[Any]]:
    """Shape and type of everything that a checkpoint of the original holds."""
    state = model.state_dict() if isinstance(model, VQVAE) else original.export_state(model)
    return {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()}


def check_layout(case: Case, tmp_path: Path) -> None:
    layouts = json.loads(case.arrays["out/layout_json_utf8"].tobytes())
    assert layouts.keys() == set(case.info["config"]["configs"])
    for name in layouts:
        layout, model = layouts[name], build(name)
        layout = layouts[layout["same_as"]] if "same_as" in layout else layout
        assert stored(model) == layout, name
        trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
        # The original's masks are parameters, too.
        masks = sum(torch.Size(shape).numel() for key, (shape, _) in layout.items() if key.endswith("self_attn_mask"))
        assert trained == case[f"out/{name}/trainable"], name
        assert sum(value.numel() for value in model.parameters()) + masks == case[f"out/{name}/params"], name
        assert len(layout) == case[f"out/{name}/keys"], name


CHECKS: dict[str, Check] = {"state-layout": check_layout}
