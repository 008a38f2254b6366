"""Latent variables of GNM, SPACE and SPAIR: diagonal Gaussians and relaxed Bernoulli variables."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from emorl.models.gaussian import DiagonalGaussian

LOG_FLOOR = 1e-15
LEAST_UNIFORM = 2.0**-23  # the spacing of float32 below 2


def gaussian(parameters: Float[Tensor, "*batch D2"], least_std: float = 0.0) -> DiagonalGaussian:
    """From (mean | standard deviation before softplus), each half of the last axis."""
    mean, std = parameters.float().chunk(2, dim=-1)
    return DiagonalGaussian(mean, F.softplus(std) + least_std)


def standard_normal_prior(like: Tensor) -> DiagonalGaussian:
    """N(0, 1) for variables of any size."""
    return DiagonalGaussian(like.new_zeros(1), like.new_ones(1))


def relaxed_bernoulli(
    logit: Float[Tensor, "*shape"], draw: Float[Tensor, "*shape"], temperature: Float[Tensor, ""] | float
) -> Float[Tensor, "*shape"]:
    """A relaxed sample (Maddison et al. 2017) of probability sigmoid(logit).

    `draw` is standard normal; its distribution function, which is uniform, makes the logistic noise.
    """
    uniform = torch.special.ndtr(draw.double()).clamp(LEAST_UNIFORM, 1 - LEAST_UNIFORM)
    return ((logit + uniform.logit().to(logit.dtype)) / temperature).sigmoid()


def bernoulli_kl(q: Float[Tensor, "*shape"], p: Float[Tensor, "*shape"] | float) -> Float[Tensor, "*shape"]:
    """KL of two Bernoulli variables of probabilities q and p, in nats."""
    p = torch.as_tensor(p, dtype=q.dtype, device=q.device)
    of_one = q * ((q + LOG_FLOOR).log() - (p + LOG_FLOOR).log())
    return of_one + (1 - q) * ((1 - q + LOG_FLOOR).log() - (1 - p + LOG_FLOOR).log())
