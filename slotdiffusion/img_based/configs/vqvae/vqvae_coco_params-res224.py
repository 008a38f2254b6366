"""The VQ-VAE whose latents SlotDiffusion denoises, on COCO: the keys are in pictures.py."""

from slotdiffusion.img_based.configs.vqvae.pictures import make_params

SlotAttentionParams = make_params("coco")
