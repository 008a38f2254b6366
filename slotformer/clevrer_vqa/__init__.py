"""CLEVRER's questions (Yi et al. 2020) to Aloe (Ding et al. 2021), which sees slots, observed or predicted."""

from slotformer.clevrer_vqa.data import build_dataset
from slotformer.clevrer_vqa.keys import Keys
from slotformer.clevrer_vqa.method import build_method
from slotformer.clevrer_vqa.models import build_model

__all__ = ["Keys", "build_dataset", "build_method", "build_model"]
