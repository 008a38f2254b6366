"""Physion's question (Bear et al. 2021), whether two marked objects touch, asked of slots that SlotFormer predicts."""

from slotformer.physion_vqa.data import build_dataset
from slotformer.physion_vqa.keys import Keys
from slotformer.physion_vqa.method import build_method
from slotformer.physion_vqa.models import build_model

__all__ = ["Keys", "build_dataset", "build_method", "build_model"]
