"""SlotDiffusion, on MOVi-Solid: the keys are in movi.py."""

from slotdiffusion.video_based.configs.savi_ldm.movi import make_params

SlotAttentionParams = make_params("solid")
