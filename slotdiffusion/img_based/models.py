"""The models of pictures, by the names that configurations call them."""

from torch import nn

from slotdiffusion.framework.models import SLOT_DICTS, Models, build_from
from slotdiffusion.img_based.dvae import dVAE
from slotdiffusion.models.sa import SA
from slotdiffusion.models.sa_diffusion import SADiffusion
from slotdiffusion.models.slate import SLATE
from slotdiffusion.models.vqvae import VQVAE
from slotformer.framework.params import BaseParams

MODELS: Models = {
    "VQVAE": (VQVAE, ("enc_dec_dict", "vq_dict")),
    "dVAE": (dVAE, ()),
    "SA": (SA, (*SLOT_DICTS, "dec_dict")),
    "SLATE": (SLATE, (*SLOT_DICTS, "dec_dict", "dvae_dict")),
    "SADiffusion": (SADiffusion, SLOT_DICTS),
}


def build_model(params: BaseParams) -> nn.Module:
    """The model `params.model`, untrained. Raises ParamsError for one that is none."""
    return build_from(MODELS, params)
