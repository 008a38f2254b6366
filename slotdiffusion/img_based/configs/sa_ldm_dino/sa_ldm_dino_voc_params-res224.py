"""SlotDiffusion with DINO, on Pascal VOC: the keys are in photos.py."""

from slotdiffusion.img_based.configs.sa_ldm_dino.photos import make_params

SlotAttentionParams = make_params("voc")
