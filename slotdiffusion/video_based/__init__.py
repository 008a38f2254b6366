"""SlotDiffusion on videos (Wu et al. 2023, section 4), the autoencoders that it needs, and SAVi and STEVE beside it."""

from slotdiffusion.video_based.data import build_dataset
from slotdiffusion.video_based.keys import Keys
from slotdiffusion.video_based.method import build_method
from slotdiffusion.video_based.models import build_model

SEES = "videos"

__all__ = ["SEES", "Keys", "build_dataset", "build_method", "build_model"]
