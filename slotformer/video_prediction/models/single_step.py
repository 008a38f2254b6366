"""SlotFormer (Wu et al. 2023) for PHYRE."""

from slotformer.video_prediction.models.slotformer import SlotFormer


class SingleStepSlotFormer(SlotFormer):
    """SlotFormer that begins with one frame (`history_len`), and fills a window of `cond_len` with its predictions."""
