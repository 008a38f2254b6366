"""What a denoising network predicts, and what that says of the clean picture (Ho et al. 2020; Salimans and Ho 2022).

x = alpha clean + sigma noise, where x is a noisy latent or picture, and alpha^2 + sigma^2 = 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

TARGETS = ("eps", "x0", "v")
"""The noise, the clean picture, or alpha noise - sigma clean."""
Maps = Float[Tensor, "B C h w"]
Correction = Callable[[Maps], Maps]
"""What is done to every estimate of the clean picture before a sampler uses it."""
THRESHOLD_RATIO = 0.995


class Moment(NamedTuple):
    """A time of the diffusion, the same for all pictures of a batch."""

    time: float
    """As the network is told."""
    alpha: float
    sigma: float


class Estimate(NamedTuple):
    """What the network makes of a noisy picture."""

    clean: Maps
    """Corrected."""
    noise: Maps
    """As predicted, before the correction."""


Estimator = Callable[[Maps, Moment], Estimate]


def training_target(
    pred_target: str,
    clean: Maps,
    noise: Maps,
    alpha: Float[Tensor, "B 1 1 1"],
    sigma: Float[Tensor, "B 1 1 1"],
) -> Maps:
    """What the network shall predict."""
    if pred_target == "eps":
        return noise
    return clean if pred_target == "x0" else alpha * noise - sigma * clean


def estimate_from(pred_target: str, prediction: Maps, noisy: Maps, moment: Moment, correct: Correction) -> Estimate:
    """Clean picture and noise from a prediction of `pred_target`."""
    _, alpha, sigma = moment
    if pred_target == "eps":
        clean, noise = (noisy - sigma * prediction) / alpha, prediction
    elif pred_target == "x0":
        clean, noise = prediction, (noisy - alpha * prediction) / sigma
    else:
        clean, noise = alpha * noisy - sigma * prediction, alpha * prediction + sigma * noisy
    return Estimate(correct(clean), noise)


def clip_to_range(clean: Maps) -> Maps:
    """Pictures lie in [-1, 1]."""
    return clean.clamp(-1, 1)


def dynamic_threshold(clean: Maps) -> Maps:
    """Cut off the most extreme 0.5 % of a picture's values if they exceed 1, and scale the rest to [-1, 1].

    Of Saharia et al. (2022), section 2.3.
    """
    limit = torch.quantile(clean.abs().flatten(1), THRESHOLD_RATIO, dim=1).clamp(min=1)[:, None, None, None]
    return clean.clamp(-limit, limit) / limit
