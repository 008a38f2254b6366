"""SlotFormer on SlotDiffusion's slots of Physion (Wu et al. 2023, section 4.4): what happens next, and what touches."""

from slotdiffusion.vp_vqa.data import build_dataset
from slotdiffusion.vp_vqa.keys import Keys
from slotdiffusion.vp_vqa.method import build_method
from slotdiffusion.vp_vqa.models import build_model

__all__ = ["Keys", "build_dataset", "build_method", "build_model"]
