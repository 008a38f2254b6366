"""Sampling step by step, as the diffusion was defined (Ho et al. 2020, algorithm 2)."""

import math

from core.nn.noise import Noise
from slotdiffusion.models.diffusion import Estimator, Maps, Moment
from slotdiffusion.models.noise_schedule import NoiseSchedule


def posterior_mean(state: Maps, step: int, schedule: NoiseSchedule, estimate: Estimator) -> Maps:
    """Of x_{t-1}, given x_t at `step` t and what the network makes of it."""
    moment = Moment(float(step), float(schedule.alphas[step]), float(schedule.sigmas[step]))
    clean = estimate(state, moment).clean
    return float(schedule.posterior_of_start[step]) * clean + float(schedule.posterior_of_state[step]) * state


def ancestral_step(state: Maps, step: int, schedule: NoiseSchedule, estimate: Estimator, noise: Noise) -> Maps:
    """x_{t-1} from x_t at `step` t; the draw `step_noise`, which step 0 has not, is of its shape or for one of all."""
    mean = posterior_mean(state, step, schedule, estimate)
    if step == 0:
        return mean
    deviation = math.exp(0.5 * float(schedule.posterior_log_variance[step]))
    return mean + deviation * noise("step_noise", tuple(state.shape))


def sample_ancestral(
    start: Maps, schedule: NoiseSchedule, estimate: Estimator, noise: Noise, log_every: int
) -> list[Maps]:
    """All N steps from pure noise: states after the first, after every `log_every` from the end, and after the last."""
    state, states = start, []
    for step in reversed(range(len(schedule))):
        state = ancestral_step(state, step, schedule, estimate, noise)
        if step % log_every == 0 or step == len(schedule) - 1:
            states.append(state)
    return states
