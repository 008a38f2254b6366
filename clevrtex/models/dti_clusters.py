"""Sprites that no picture needs begin anew as copies of the most used one (Monnier et al. 2020, appendix)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

STEPS_BETWEEN = 250
THRESHOLD = 0.2
NOISE = 1e-4


class RunningMean(nn.Module):
    """The mean of all values since the last `reset`, each with a weight."""

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("total", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    def update(self, values: Float[Tensor, "*shape"], weight: float = 1.0) -> None:
        self.total += weight * values
        self.weight += weight

    def mean(self) -> Float64[Tensor, "*shape"]:
        return self.total / self.weight

    def reset(self) -> None:
        self.total.zero_()
        self.weight.zero_()


def unused_sprites(frequencies: Float[Tensor, "K"]) -> tuple[list[int], int]:
    """Sprites that are chosen less often than 0.2 / K times as often as the most used one, and that one."""
    shares = (frequencies / frequencies.max()).tolist()
    return [k for k, share in enumerate(shares) if share < THRESHOLD / len(shares)], int(frequencies.argmax())


@torch.no_grad()
def copy_entry(
    parameter: nn.Parameter, axis: int, source: int, targets: Sequence[int], optimizer: torch.optim.Optimizer | None
) -> None:
    """Make `targets` along `axis` equal to `source`, in a parameter and in all moments that the optimiser has of it.

    In the original moments of sprites' regressors became aliases of the source's, and those of the colours stayed.
    """
    state = optimizer.state.get(parameter, {}) if optimizer else {}
    moments = [value for value in state.values() if isinstance(value, Tensor) and value.shape == parameter.shape]
    for values in (parameter, *moments):
        for target in targets:
            values.select(axis, target).copy_(values.select(axis, source))
