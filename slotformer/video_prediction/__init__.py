"""SlotFormer (Wu et al. 2023) itself: predicts the slots that a base model has found in videos."""

from slotformer.video_prediction.data import build_dataset
from slotformer.video_prediction.keys import Keys
from slotformer.video_prediction.method import build_method
from slotformer.video_prediction.models import build_model

__all__ = ["Keys", "build_dataset", "build_method", "build_model"]
