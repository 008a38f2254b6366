"""SAVi, on MOVi-D: the keys are in movi.py."""

from slotdiffusion.video_based.configs.savi.movi import make_params

SlotAttentionParams = make_params("d")
