"""SlotDiffusion on pictures (Wu et al. 2023, section 4), the autoencoders that it needs, Slot Attention and SLATE."""

from slotdiffusion.img_based.encoded_pictures import build_dataset
from slotdiffusion.img_based.keys import Keys
from slotdiffusion.img_based.method import build_method
from slotdiffusion.img_based.models import build_model

SEES = "images"

__all__ = ["SEES", "Keys", "build_dataset", "build_method", "build_model"]
