"""DPM-Solver++ (Lu et al. 2022): the sampling ODE solved to order 3 in the clean picture, with few evaluations.

With lambda = ln(alpha / sigma), a step from s to t has h = lambda_t - lambda_s. All its coefficients follow from the
schedule; they are computed once, in float64.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from slotdiffusion.models.diffusion import Estimator, Maps, Moment
from slotdiffusion.models.noise_schedule import NoiseSchedule

FEW_STEPS = 10


class Update(NamedTuple):
    """After an evaluation at `moment`: the next state as a sum over the state that the step began at and estimates."""

    moment: Moment
    of_state: float
    of_estimates: tuple[float, ...]
    """The newest first."""
    ends_step: bool


class _Node(NamedTuple):
    """The schedule at a continuous time."""

    moment: Moment
    log_snr: float


def orders_of(evaluations: int) -> list[int]:
    """The orders of the steps, which sum to `evaluations`: as many of 3 as leave a smaller one for the end."""
    check_evaluations(evaluations)
    threes, rest = divmod(evaluations, 3)
    if rest:
        return [3] * threes + [rest]
    return [3] * (threes - 1) + [2, 1]


def outer_times(schedule: NoiseSchedule, orders: Sequence[int]) -> Float64[np.ndarray, " S"]:
    """Where steps of `orders` begin and end, from 1 down to 1/N, evenly spaced by evaluations."""
    grid = np.linspace(1, 1 / len(schedule), sum(orders) + 1)
    return grid[np.append(0, np.cumsum(orders))]


def inner_ratios(schedule: NoiseSchedule, begin: float, end: float, order: int) -> list[float]:
    """How far in lambda the evaluations inside a step are, which are evenly spaced in time."""
    log_snr = schedule.log_snr(np.linspace(begin, end, order + 1))
    return ((log_snr[1:-1] - log_snr[0]) / (log_snr[-1] - log_snr[0])).tolist()


def singlestep_updates(schedule: NoiseSchedule, evaluations: int, network_timesteps: int | None = None) -> list[Update]:
    """Steps of order 3 and smaller ones at the end, `evaluations` in all (Lu et al. 2022, section 4).

    The network is told times in units of 1 / `network_timesteps`; None: as in training. Raises ValueError without an
    evaluation.
    """
    orders, updates = orders_of(evaluations), []
    times = outer_times(schedule, orders)
    for order, begin, end in zip(orders, times[:-1], times[1:]):
        ratios = inner_ratios(schedule, begin, end, order)
        first, last = schedule.log_snr(np.array([begin, end]))
        inner = schedule.time_of(first + np.array(ratios) * (last - first))
        nodes = _nodes(schedule, np.array([begin, *inner, end]), network_timesteps)
        updates += _step_through(nodes, ratios)
    return updates


def multistep_updates(schedule: NoiseSchedule, evaluations: int, network_timesteps: int | None = None) -> list[Update]:
    """Steps of order 2 with an evaluation each, which use that of the step before, too (Lu et al. 2022, algorithm 2).

    The first is of order 1, as is, with less than 10 steps, the last. Times and errors as above.
    """
    check_evaluations(evaluations)
    times = np.linspace(1, 1 / len(schedule), evaluations + 1)
    nodes = _nodes(schedule, times, network_timesteps)
    updates = []
    for number, (begin, end) in enumerate(pairwise(nodes)):
        h = end.log_snr - begin.log_snr
        first = -end.moment.alpha * expm1(-h)
        estimates: tuple[float, ...] = (first,)
        is_last_of_few = evaluations < FEW_STEPS and number == evaluations - 1
        if number and not is_last_of_few:
            slope = first / 2 * h / (begin.log_snr - nodes[number - 1].log_snr)
            estimates = (first + slope, -slope)
        updates.append(Update(begin.moment, end.moment.sigma / begin.moment.sigma, estimates, ends_step=True))
    return updates


def solve(start: Maps, updates: Sequence[Update], estimate: Estimator) -> list[Maps]:
    """The states after every step from pure noise; the last is the sample."""
    begin = state = start
    recent: list[Maps] = []
    states = []
    for update in updates:
        recent = [estimate(state, update.moment).clean, *recent[:2]]
        state = update.of_state * begin
        for weight, clean in zip(update.of_estimates, recent):
            if weight:
                state = state + weight * clean
        if update.ends_step:
            begin = state
            states.append(state)
    return states


def check_evaluations(evaluations: int) -> None:
    """Raises ValueError without an evaluation."""
    if evaluations < 1:
        raise ValueError(f"steps={evaluations}: the solver needs at least one evaluation of the network")


def _nodes(schedule: NoiseSchedule, times: Float64[np.ndarray, " S"], network_timesteps: int | None) -> list[_Node]:
    told = (times - 1 / len(schedule)) * (network_timesteps or len(schedule))
    log_alpha, log_snr = schedule.log_alpha(times), schedule.log_snr(times)
    columns = (told, np.exp(log_alpha), np.exp(log_alpha - log_snr), log_snr)
    return [_Node(Moment(*row[:3]), row[3]) for row in zip(*(values.tolist() for values in columns))]


def _step_through(nodes: Sequence[_Node], ratios: Sequence[float]) -> list[Update]:
    """The updates of one step; each leads from its begin to the next node, and inner nodes are at `ratios` of it.

    An update adds `first` (alpha_t phi_1) times the estimate at the begin and, from the second on, `slope` times what
    one estimate further on differs from it.
    """
    begin, *ends = nodes
    h = ends[-1].log_snr - begin.log_snr
    updates = []
    for number, (before, end) in enumerate(pairwise(nodes)):
        covered = end.log_snr - begin.log_snr
        first = -end.moment.alpha * expm1(-covered)
        second = end.moment.alpha * (expm1(-covered) / covered + 1) * covered / h
        if number == 0:
            estimates: tuple[float, ...] = (first,)
        elif len(nodes) == 3:
            slope = first / (2 * ratios[0])
            estimates = (slope, first - slope)
        elif number == 1:
            slope = second / ratios[0]
            estimates = (slope, first - slope)
        else:
            slope = second / ratios[1]
            estimates = (slope, 0.0, first - slope)
        of_begin = end.moment.sigma / begin.moment.sigma
        updates.append(Update(before.moment, of_begin, estimates, ends_step=end is nodes[-1]))
    return updates
