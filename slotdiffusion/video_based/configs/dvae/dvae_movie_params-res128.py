"""The discrete VAE whose words STEVE predicts, on MOVi-E: the keys are in movi.py."""

from slotdiffusion.video_based.configs.dvae.movi import make_params

SlotAttentionParams = make_params("e")
