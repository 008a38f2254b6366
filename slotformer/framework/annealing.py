"""What changes during a training of SlotFormer (Wu et al. 2023) beside the learning rate."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def cosine_anneal(step: int, first: float, last: float, final_step: float, start_step: float = 0.0) -> float:
    """`first` until `start_step`, `last` from `final_step` on, half a cosine between: the dVAE's temperature."""
    if step < start_step:
        return first
    if step >= final_step:
        return last
    part = (step - start_step) / (final_step - start_step)
    return (first - last) / 2 * math.cos(math.pi * part) + (first + last) / 2


def loss_decay_factor(step: int, decay_steps: float) -> float:
    """Linear from 0.01 to 1 at `decay_steps`: how much a predicted frame counts beside the one before it."""
    return 0.01 + 0.99 * step / decay_steps if step < decay_steps else 1.0


def temporal_weights(factor: float, num_steps: int) -> Float[Tensor, "num_steps"]:
    """Weights of predicted frames, each `factor` times that before; their mean is one."""
    weights = torch.tensor(factor, dtype=torch.float64) ** torch.arange(num_steps)
    return (weights / weights.mean()).float()
