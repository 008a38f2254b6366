"""SLATE, on CelebA: the keys are in pictures.py."""

from slotdiffusion.img_based.configs.slate.pictures import make_params

SlotAttentionParams = make_params("celeba")
