"""SlotFormer: unsupervised visual dynamics simulation with object-centric models (Wu et al., ICLR 2023)."""
