"""Slot Attention, on ClevrTex: the keys are in pictures.py."""

from slotdiffusion.img_based.configs.sa.pictures import make_params

SlotAttentionParams = make_params("clevrtex")
