"""The VQ-VAE whose latents SlotDiffusion denoises, on Pascal VOC: the keys are in pictures.py."""

from slotdiffusion.img_based.configs.vqvae.pictures import make_params

SlotAttentionParams = make_params("voc")
