"""The models of videos, by the names that configurations call them."""

from torch import nn

from slotdiffusion.framework.models import SLOT_DICTS, Models, build_from
from slotdiffusion.models.savi import SAVi
from slotdiffusion.models.savi_diffusion import SAViDiffusion
from slotdiffusion.models.steve import STEVE
from slotdiffusion.models.vqvae import VQVAE
from slotformer.base_slots.models.dvae import dVAE
from slotformer.framework.params import BaseParams

VIDEO_DICTS = (*SLOT_DICTS, "pred_dict")
MODELS: Models = {
    "VQVAE": (VQVAE, ("enc_dec_dict", "vq_dict")),
    "dVAE": (dVAE, ()),
    "SAVi": (SAVi, (*VIDEO_DICTS, "dec_dict")),
    "STEVE": (STEVE, (*VIDEO_DICTS, "dec_dict", "dvae_dict")),
    "SAViDiffusion": (SAViDiffusion, VIDEO_DICTS),
}


def build_model(params: BaseParams) -> nn.Module:
    """The model `params.model`, untrained. Raises ParamsError for one that is none."""
    others = {"clip_len": params.input_frames} if "input_frames" in params else {}
    return build_from(MODELS, params, **others)
