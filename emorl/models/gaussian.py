"""Diagonal Gaussians as EfficientMORL parameterises them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def scale_to_std(scale: Float[Tensor, "*shape"], as_original: bool = False) -> Float[Tensor, "*shape"]:
    """Standard deviation from an unconstrained number: softplus gives the variance, floored at 1e-5.

    Numbers above 80 count as 80. `as_original` evaluates log(1 + exp) naively: its variance differs by less than 1.2e-7
    and its gradient vanishes below -17.
    """
    scale = scale.float().clamp(max=80.0)
    variance = torch.log(1 + torch.exp(scale)) if as_original else F.softplus(scale)
    return (variance + 1e-5).sqrt()


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, diag(std^2)) over the last axis."""

    mean: Float[Tensor, "*batch D"]
    std: Float[Tensor, "*batch D"]

    @classmethod
    def from_parameters(cls, parameters: Float[Tensor, "*batch D2"]) -> "DiagonalGaussian":
        """From lambda = (mean | unconstrained scale), each half of the last axis."""
        mean, scale = parameters.float().chunk(2, dim=-1)
        return cls(mean, scale_to_std(scale))

    @classmethod
    def standard_like(cls, other: "DiagonalGaussian") -> "DiagonalGaussian":
        return cls(torch.zeros_like(other.mean), torch.ones_like(other.std))

    def sample(self, noise: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Reparameterised: mean + std * noise."""
        return self.mean + self.std * noise


def kl_divergence(q: DiagonalGaussian, p: DiagonalGaussian) -> Float[Tensor, "*batch"]:
    """KL(q || p) in nats, summed over the last axis."""
    squares = (q.std.square() + (q.mean - p.mean).square()) / (2 * p.std.square())
    return (torch.log(p.std / q.std) + squares - 0.5).sum(dim=-1)
