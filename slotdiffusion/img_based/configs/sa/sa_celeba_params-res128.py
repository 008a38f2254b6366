"""Slot Attention, on CelebA: the keys are in pictures.py."""

from slotdiffusion.img_based.configs.sa.pictures import make_params

SlotAttentionParams = make_params("celeba")
