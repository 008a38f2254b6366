"""PHYRE (Bakhtin et al. 2019): whether a ball solves a task, told from slots that SlotFormer predicts."""

from slotformer.phyre_planning.data import build_dataset
from slotformer.phyre_planning.keys import Keys
from slotformer.phyre_planning.method import build_method
from slotformer.phyre_planning.models import build_model

__all__ = ["Keys", "build_dataset", "build_method", "build_model"]
