"""Sampling with fewer steps, without noise or with some (DDIM, Song et al. 2021)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from core.nn.noise import Noise
from slotdiffusion.models.diffusion import Estimator, Maps, Moment
from slotdiffusion.models.noise_schedule import NoiseSchedule

LOG_EVERY = 100


class DDIMStep(NamedTuple):
    """An update to `of_clean` clean + `of_noise` noise + `of_draw` of a draw."""

    moment: Moment
    of_clean: float
    of_noise: float
    of_draw: float


def check_ddim_steps(timesteps: int, steps: int) -> None:
    """Raises ValueError where there are not as many."""
    if not 0 < steps < timesteps:
        raise ValueError(f"steps={steps}: DDIM takes 1 to {timesteps - 1} steps of a diffusion of {timesteps}")


def ddim_timesteps(
    timesteps: int, steps: int, spacing: Literal["uniform", "quad"] = "uniform"
) -> Int64[np.ndarray, " S"]:
    """Which of the `timesteps` are visited, ascending; evenly spaced ones may be more than `steps`.

    Raises ValueError where there are not as many.
    """
    check_ddim_steps(timesteps, steps)
    if spacing == "uniform":
        grid = np.arange(0, timesteps, timesteps // steps) + 1
    else:
        grid = (np.linspace(0, np.sqrt(0.8 * timesteps), steps) ** 2).astype(np.int64) + 1
    return grid[grid < timesteps]


def ddim_steps(schedule: NoiseSchedule, timesteps: Sequence[int] | np.ndarray, eta: float) -> list[DDIMStep]:
    """The updates at `timesteps`, in the order of sampling; `eta` 1 draws as much noise as the diffusion, 0 none.

    The last one ends at step 0, not at the clean picture.
    """
    alphas_bar = schedule.alphas_bar[timesteps]
    ends = np.append(schedule.alphas_bar[0], alphas_bar[:-1])
    draws = eta * np.sqrt((1 - ends) / (1 - alphas_bar) * (1 - alphas_bar / ends))
    rows = zip(timesteps, np.sqrt(alphas_bar), np.sqrt(1 - alphas_bar), np.sqrt(ends), 1 - ends - draws**2, draws)
    steps = [
        DDIMStep(Moment(float(time), float(alpha), float(sigma)), float(end), float(rest) ** 0.5, float(draw))
        for time, alpha, sigma, end, rest, draw in rows
    ]
    return steps[::-1]


def sample_ddim(
    start: Maps, schedule: NoiseSchedule, estimate: Estimator, noise: Noise, steps: int, eta: float = 0.0
) -> list[Maps]:
    """From pure noise: it, the state after the first update, after every hundredth from the end, and after the last.

    The draws `step_noise` have the state's shape; without `eta` there are none.
    """
    updates = ddim_steps(schedule, ddim_timesteps(len(schedule), steps), eta)
    state, states = start, [start]
    for remaining, update in zip(reversed(range(len(updates))), updates):
        found = estimate(state, update.moment)
        state = update.of_clean * found.clean + update.of_noise * found.noise
        if update.of_draw:
            state = state + update.of_draw * noise("step_noise", tuple(state.shape))
        if remaining % LOG_EVERY == 0 or remaining == len(updates) - 1:
            states.append(state)
    return states
