"""The base models of SlotFormer (Wu et al. 2023): SAVi, STEVE, and the discrete VAE that STEVE needs."""

from slotformer.base_slots.data import build_dataset
from slotformer.base_slots.keys import Keys
from slotformer.base_slots.method import build_method
from slotformer.base_slots.models import build_model

SEES = "videos"

__all__ = ["SEES", "Keys", "build_dataset", "build_method", "build_model"]
