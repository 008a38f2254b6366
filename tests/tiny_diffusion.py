"""Small models of latent diffusion, for the tests."""

from typing import Any

import torch
from torch import nn

from slotdiffusion.models.latent_diffusion import LatentDiffusion
from slotdiffusion.models.unet import UNet

UNET = {
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "dropout": 0.0,
    "channel_mult": (1, 2),
    "num_head_channels": 16,
    "context_dim": 12,
}
VAE = {
    "vae_type": "VQVAE",
    "vqvae_ckp_path": "",
    "enc_dec_dict": {"resolution": 32, "ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1},
    "vq_dict": {"n_embed": 64, "embed_dim": 3, "percept_loss_w": 1.0},
}
DECODER = {
    "resolution": (8, 8),
    "unet_dict": UNET,
    "vae_dict": VAE,
    "diffusion_dict": {"timesteps": 1000, "linear_start": 0.0015, "linear_end": 0.0195, "logvar_init": 0.0},
    "cond_stage_key": "slots",
}


def trained(model: nn.Module) -> nn.Module:
    """The model without weights that begin at zero, so that all of it takes part; codes are as far apart as latents."""
    for name, value in model.named_parameters():
        if not value.any():
            nn.init.normal_(value, std=0.05)
        if name.endswith("quantize.embedding.weight"):
            nn.init.normal_(value)
    return model


def tiny_unet(seed: int = 0, **options: Any) -> UNet:
    torch.manual_seed(seed)
    return trained(UNet(**{**UNET, **options}))


def tiny_decoder(seed: int = 0, unet: dict[str, Any] | None = None, **options: Any) -> LatentDiffusion:
    torch.manual_seed(seed)
    return trained(LatentDiffusion(**{**DECODER, "unet_dict": {**UNET, **(unet or {})}, **options}))
