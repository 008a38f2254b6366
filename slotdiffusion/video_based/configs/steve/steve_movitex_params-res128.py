"""STEVE, on MOVi-Tex: the keys are in movi.py."""

from slotdiffusion.video_based.configs.steve.movi import make_params

SlotAttentionParams = make_params("tex")
