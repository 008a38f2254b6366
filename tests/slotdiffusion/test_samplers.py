"""Samplers against a diffusion whose solution is known: that of a Gaussian, for which the best network is linear."""

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor

from core.nn.noise import standard_normal
from slotdiffusion.models.ancestral import sample_ancestral
from slotdiffusion.models.ddim import ddim_timesteps, sample_ddim
from slotdiffusion.models.diffusion import Estimate, Moment, dynamic_threshold, estimate_from, training_target
from slotdiffusion.models.dpm_solver import Update, multistep_updates, orders_of, singlestep_updates, solve
from slotdiffusion.models.noise_schedule import NoiseSchedule, make_betas

MEAN, DEVIATION = 0.3, 0.6
SPREAD_LOST = 0.05
"""By random samplers, which go on from the mean of what x_0 may be; less with more steps."""
SCHEDULE = NoiseSchedule(make_betas("linear", 1000, 0.0015, 0.0195))
SMOOTH = NoiseSchedule(np.full(20, 0.25))
"""Without kinks at the steps, which hide a solver's order."""


def unused_noise(name: str, shape: tuple[int, ...]) -> NoReturn:
    raise AssertionError(f"{name} was drawn")


def best_estimate(state: Tensor, moment: Moment) -> Estimate:
    """Of x_0 from N(MEAN, DEVIATION^2), given x_t."""
    spread = moment.alpha**2 * DEVIATION**2 + moment.sigma**2
    clean = MEAN + moment.alpha * DEVIATION**2 / spread * (state - moment.alpha * MEAN)
    return Estimate(clean, (state - moment.alpha * clean) / moment.sigma)


def solution(start: Tensor, begin: Moment, end: Moment) -> Tensor:
    """Where the sampling ODE takes `start`: every quantile of x_t goes to that of a later one."""
    widths = [np.sqrt(moment.alpha**2 * DEVIATION**2 + moment.sigma**2) for moment in (begin, end)]
    return end.alpha * MEAN + widths[1] / widths[0] * (start - begin.alpha * MEAN)


def moment_at(time: float, schedule: NoiseSchedule) -> Moment:
    (log_alpha,) = schedule.log_alpha(np.array([time]))
    return Moment(0.0, float(np.exp(log_alpha)), float(np.sqrt(-np.expm1(2 * log_alpha))))


def starts() -> Tensor:
    return torch.linspace(-3, 3, 12, dtype=torch.float64).view(1, 3, 2, 2)


def error_of(updates: list[Update], schedule: NoiseSchedule) -> float:
    found = solve(starts(), updates, best_estimate)[-1]
    exact = solution(starts(), moment_at(1.0, schedule), moment_at(1 / len(schedule), schedule))
    return float((found - exact).abs().max())


@pytest.mark.parametrize(
    ("updates_of", "order", "tolerance"), [(singlestep_updates, 3, 2e-6), (multistep_updates, 2, 5e-6)]
)
def test_solver_has_its_order(updates_of: Callable, order: int, tolerance: float) -> None:
    """Half the step divides the error by 2^order, if the last step is not of order 1."""
    errors = [error_of(updates_of(SMOOTH, number), SMOOTH) for number in (191, 383, 767)]
    rates = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert (rates > order - 0.3).all(), (errors, rates)
    assert errors[-1] < tolerance, errors


def test_errors_of_the_published_schedule() -> None:
    """The published 20 evaluations are a tenth of the deviation off; nearly all of it is from the last step."""
    errors = [error_of(singlestep_updates(SCHEDULE, number), SCHEDULE) for number in (20, 200, 2000)]
    assert errors[0] < 0.15
    assert errors[1] < 0.015
    assert errors[2] < 2e-4


def test_solver_of_order_one_is_ddim() -> None:
    """One evaluation: x_t = alpha_t clean + sigma_t noise."""
    (update,) = singlestep_updates(SCHEDULE, 1)
    begin, end = moment_at(1.0, SCHEDULE), moment_at(1e-3, SCHEDULE)
    found = best_estimate(starts(), begin)
    expected = end.alpha * found.clean + end.sigma * found.noise
    torch.testing.assert_close(solve(starts(), [update], best_estimate)[-1], expected)


@pytest.mark.parametrize("evaluations", [1, 2, 3, 4, 5, 6, 20, 21])
def test_solver_asks_as_often_as_told(evaluations: int) -> None:
    asked: list[float] = []

    def estimate(state: Tensor, moment: Moment) -> Estimate:
        asked.append(moment.time)
        return best_estimate(state, moment)

    orders = orders_of(evaluations)
    assert sum(orders) == evaluations
    assert max(orders) <= 3
    states = solve(starts(), singlestep_updates(SCHEDULE, evaluations), estimate)
    assert len(states) == len(orders)
    assert len(asked) == evaluations
    assert asked == sorted(asked, reverse=True)
    assert asked[0] == pytest.approx(999)
    solve(starts(), multistep_updates(SCHEDULE, evaluations), estimate)
    assert len(asked) == 2 * evaluations


def test_network_time_follows_the_number_of_steps() -> None:
    """The network was trained with times up to N - 1; the original always tells it thousandths."""
    schedule = NoiseSchedule(make_betas("linear", 100, 0.015, 0.195))
    assert singlestep_updates(schedule, 5)[0].moment.time == pytest.approx(99)
    assert singlestep_updates(schedule, 5, 1000)[0].moment.time == pytest.approx(990)


@pytest.mark.parametrize("updates_of", [singlestep_updates, multistep_updates])
def test_no_evaluation(updates_of: Callable) -> None:
    with pytest.raises(ValueError, match="steps=0: the solver needs at least one evaluation"):
        updates_of(SCHEDULE, 0)


def test_ddim_without_noise_draws_nothing() -> None:
    states = sample_ddim(starts(), SCHEDULE, best_estimate, unused_noise, steps=500)
    begin, end = (Moment(0.0, SCHEDULE.alphas[t], SCHEDULE.sigmas[t]) for t in (999, 0))
    torch.testing.assert_close(states[-1], solution(starts(), begin, end), rtol=0, atol=0.02)
    assert torch.equal(states[0], starts())
    assert torch.equal(states[-1], sample_ddim(starts(), SCHEDULE, best_estimate, unused_noise, steps=500)[-1])


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_noise_has_the_distribution(eta: float) -> None:
    torch.manual_seed(0)
    noise = standard_normal(torch.device("cpu"))
    samples = sample_ddim(torch.randn(500, 3, 4, 4), SCHEDULE, best_estimate, noise, steps=250, eta=eta)[-1]
    assert float(samples.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(samples.std()) == pytest.approx(DEVIATION, rel=SPREAD_LOST)


def test_ancestral_sampling_has_the_distribution() -> None:
    torch.manual_seed(0)
    schedule = NoiseSchedule(make_betas("linear", 200, 0.0075, 0.0975))
    noise = standard_normal(torch.device("cpu"))
    states = sample_ancestral(torch.randn(500, 3, 4, 4), schedule, best_estimate, noise, log_every=50)
    assert len(states) == 5  # after steps 199, 150, 100, 50 and 0
    assert float(states[-1].mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(states[-1].std()) == pytest.approx(DEVIATION, rel=SPREAD_LOST)


def test_ddim_grid() -> None:
    assert ddim_timesteps(1000, 5).tolist() == [1, 201, 401, 601, 801]
    assert len(ddim_timesteps(1000, 7)) == 8
    assert ddim_timesteps(9, 8).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    for steps in (0, 1000):
        with pytest.raises(ValueError, match="DDIM takes 1 to 999 steps of a diffusion of 1000"):
            ddim_timesteps(1000, steps)


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_targets_say_the_same(target: str) -> None:
    clean, noise = torch.randn(2, 2, 3, 4, 4)
    moment = Moment(10.0, 0.6, 0.8)
    alpha, sigma = (torch.full((2, 1, 1, 1), value) for value in moment[1:])
    prediction = training_target(target, clean, noise, alpha, sigma)
    noisy = alpha * clean + sigma * noise
    found = estimate_from(target, prediction, noisy, moment, lambda value: value.clamp(-1, 1))
    torch.testing.assert_close(found.clean, clean.clamp(-1, 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.noise, noise, rtol=1e-5, atol=1e-5)


def test_dynamic_threshold() -> None:
    """Of 1000 values the 995th counts, where it exceeds 1."""
    values = torch.linspace(0, 3, 1000).view(1, 1, 25, 40)
    limit = float(torch.linspace(0, 3, 1000)[994]) + 0.005 * 3 / 999
    found = dynamic_threshold(torch.cat((values, -values, 0.2 * values)))
    torch.testing.assert_close(found[:1], values.clamp(max=limit) / limit)
    torch.testing.assert_close(found[1], -found[0])
    torch.testing.assert_close(found[2], 0.2 * values[0])


@pytest.mark.parametrize("name", ["linear", "cosine", "sqrt_linear", "sqrt"])
def test_schedules_lose_all_signal(name: str) -> None:
    schedule = NoiseSchedule(make_betas(name))
    assert len(schedule) == 1000
    assert (schedule.betas > 0).all()
    assert (schedule.betas < 1).all()
    assert (np.diff(schedule.alphas_bar) < 0).all()
    assert schedule.alphas_bar[-1] < 0.01
    np.testing.assert_allclose(schedule.alphas**2 + schedule.sigmas**2, 1)
    times = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(schedule.time_of(schedule.log_snr(times)), times, rtol=1e-9)
    assert schedule.posterior_variance[0] == 0
    assert np.isfinite(schedule.posterior_log_variance).all()


def test_unknown_schedule() -> None:
    with pytest.raises(ValueError, match="beta_schedule='lineal' is not one of"):
        make_betas("lineal")
