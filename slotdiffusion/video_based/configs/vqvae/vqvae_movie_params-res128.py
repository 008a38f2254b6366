"""The VQ-VAE whose latents SlotDiffusion denoises, on MOVi-E: the keys are in movi.py."""

from slotdiffusion.video_based.configs.vqvae.movi import make_params

SlotAttentionParams = make_params("e")
