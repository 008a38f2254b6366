"""The discrete VAE whose words SLATE predicts, on CelebA: the keys are in pictures.py."""

from slotdiffusion.img_based.configs.dvae.pictures import make_params

SlotAttentionParams = make_params("celeba")
