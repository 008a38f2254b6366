"""SlotDiffusion: object-centric generative modeling with diffusion models (Wu et al., NeurIPS 2023)."""

from slotdiffusion import original

__all__ = ["original"]
