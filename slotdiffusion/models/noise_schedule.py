"""How noise grows over the N steps of a diffusion (Ho et al. 2020), in float64: t runs from 0 to N - 1.

x_t = alpha_t x_0 + sigma_t noise, with alpha_t^2 = `alphas_bar[t]` = 1 - sigma_t^2. Solvers read the same schedule at
continuous times from 1/N to 1, where step t ends at (t + 1)/N.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

Steps = Float64[np.ndarray, " N"]
Values = Float64[np.ndarray, "..."]


def make_betas(
    beta_schedule: str = "linear",
    timesteps: int = 1000,
    linear_start: float = 1e-4,
    linear_end: float = 2e-2,
    cosine_s: float = 8e-3,
) -> Steps:
    """The variance that each of `timesteps` steps adds.

    linear       square roots grow linearly from `linear_start` to `linear_end` (Rombach et al. 2022)
    cosine       alphas_bar falls like a squared cosine, with offset `cosine_s` (Nichol and Dhariwal 2021, equation 17)
    sqrt_linear  grows linearly (Ho et al. 2020)
    sqrt         the square root of that

    Raises ValueError for another name.
    """
    if beta_schedule == "linear":
        return np.linspace(linear_start**0.5, linear_end**0.5, timesteps) ** 2
    if beta_schedule == "cosine":
        angles = (np.arange(timesteps + 1) / timesteps + cosine_s) / (1 + cosine_s) * np.pi / 2
        left = np.cos(angles) ** 2
        return np.clip(1 - left[1:] / left[:-1], 0, 0.999)
    betas = np.linspace(linear_start, linear_end, timesteps)
    if beta_schedule == "sqrt_linear":
        return betas
    if beta_schedule == "sqrt":
        return np.sqrt(betas)
    raise ValueError(f"beta_schedule={beta_schedule!r} is not one of 'linear', 'cosine', 'sqrt_linear', 'sqrt'")


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """What follows from the variances that the steps add."""

    betas: Steps

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_bar(self) -> Steps:
        return np.cumprod(1 - self.betas)

    @cached_property
    def alphas(self) -> Steps:
        """What is left of x_0."""
        return np.sqrt(self.alphas_bar)

    @cached_property
    def sigmas(self) -> Steps:
        """How much noise there is."""
        return np.sqrt(1 - self.alphas_bar)

    @cached_property
    def posterior_variance(self) -> Steps:
        """Of x_{t-1} given x_t and x_0 (Ho et al. 2020, equation 7)."""
        return self.betas * (1 - self._alphas_bar_before) / (1 - self.alphas_bar)

    @cached_property
    def posterior_log_variance(self) -> Steps:
        """Clipped, for the variance is 0 at the first step."""
        return np.log(np.maximum(self.posterior_variance, 1e-20))

    @cached_property
    def posterior_of_start(self) -> Steps:
        """What to multiply x_0 by in the posterior's mean."""
        return self.betas * np.sqrt(self._alphas_bar_before) / (1 - self.alphas_bar)

    @cached_property
    def posterior_of_state(self) -> Steps:
        """What to multiply x_t by in the posterior's mean."""
        return (1 - self._alphas_bar_before) * np.sqrt(1 - self.betas) / (1 - self.alphas_bar)

    @property
    def _alphas_bar_before(self) -> Steps:
        return np.append(1.0, self.alphas_bar[:-1])

    def log_alpha(self, times: Values) -> Values:
        """ln alpha at continuous `times`, linear between the steps."""
        return np.interp(times, self._ends, self._log_alphas)

    def log_snr(self, times: Values) -> Values:
        """ln(alpha / sigma), half the logarithm of the signal-to-noise ratio."""
        log_alpha = self.log_alpha(times)
        return log_alpha - 0.5 * np.log(-np.expm1(2 * log_alpha))

    def time_of(self, log_snr: Values) -> Values:
        """Where `log_snr` has these values."""
        log_alpha = -0.5 * np.logaddexp(0.0, -2 * log_snr)
        return np.interp(log_alpha, self._log_alphas[::-1], self._ends[::-1])

    @cached_property
    def _ends(self) -> Steps:
        return np.arange(1, len(self) + 1) / len(self)

    @cached_property
    def _log_alphas(self) -> Steps:
        return 0.5 * np.cumsum(np.log1p(-self.betas))

    def buffers(self) -> dict[str, Tensor]:
        """What checkpoints of the original hold of the schedule, float32."""
        values = {
            "betas": self.betas,
            "alphas_bar": self.alphas_bar,
            "alphas_bar_prev": self._alphas_bar_before,
            "sqrt_alphas_bar": self.alphas,
            "sqrt_one_minus_alphas_bar": self.sigmas,
            "log_one_minus_alphas_bar": np.log(1 - self.alphas_bar),
            "sqrt_recip_alphas_bar": np.sqrt(1 / self.alphas_bar),
            "sqrt_recipm1_alphas_bar": np.sqrt(1 / self.alphas_bar - 1),
            "posterior_variance": self.posterior_variance,
            "posterior_log_variance_clipped": self.posterior_log_variance,
            "posterior_mean_coef1": self.posterior_of_start,
            "posterior_mean_coef2": self.posterior_of_state,
        }
        return {name: torch.from_numpy(array).float() for name, array in values.items()}
