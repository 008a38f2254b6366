"""Learning-rate factors against numbers worked out by hand."""

from math import cos, pi

import pytest

from core.training.schedules import (
    constant,
    cosine_with_restarts,
    warmup_then_cosine,
    warmup_then_decay,
    warmup_then_exponential,
)


def test_constant():
    assert [constant(step) for step in (0, 1, 10**9)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.0),
        (1, 0.0001),
        (2500, 0.25),
        (9999, 0.9999),
        (10000, 1.0),
        # The decay starts one call late, as in the original.
        (10001, 1.0),
        (10002, 0.5**0.00002),
        (60000, 0.5**0.5),
        (110000, 0.5),
        (210000, 0.25),
        (310000, 0.125),
    ],
)
def test_warmup_then_decay_as_published(step, factor):
    assert warmup_then_decay(10000, 100_000)(step) == pytest.approx(factor, rel=1e-12, abs=0)


def test_warmup_then_decay_with_another_rate():
    schedule = warmup_then_decay(4, 10, 0.1)
    assert [schedule(step) for step in (0, 1, 2, 3, 4, 5)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert schedule(14) == pytest.approx(0.1)
    assert schedule(24) == pytest.approx(0.01)


def test_decay_without_warmup():
    schedule = warmup_then_decay(0, 10)
    assert [schedule(0), schedule(1)] == [1, 1]
    assert schedule(10) == pytest.approx(0.5)


def test_decay_never_rises():
    factors = [warmup_then_decay(5, 20)(step) for step in range(5, 200)]
    assert factors == sorted(factors, reverse=True)


def test_warmup_then_cosine():
    schedule = warmup_then_cosine(4, 24)
    assert [schedule(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(4) == 1
    assert schedule(9) == pytest.approx((1 + cos(pi / 4)) / 2)
    assert schedule(14) == pytest.approx(0.5)
    assert schedule(24) == pytest.approx(0, abs=1e-15)
    assert schedule(1000) == pytest.approx(0, abs=1e-15)


def test_cosine_ends_at_its_floor():
    schedule = warmup_then_cosine(0, 10, floor=0.2)
    assert schedule(0) == 1
    assert schedule(5) == pytest.approx(0.6)
    assert schedule(10) == pytest.approx(0.2)
    assert schedule(99) == pytest.approx(0.2)


def test_cosine_that_is_all_warmup():
    schedule = warmup_then_cosine(3, 3)
    assert [schedule(step) for step in range(4)] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1, 1]


def test_cosine_with_restarts_begins_and_ends_each_cycle_at_the_floor() -> None:
    factor = cosine_with_restarts(10, 2.5, floor=0.1)
    assert [factor(0), factor(10)] == [0.1, 0.1]
    assert factor(2) == pytest.approx(0.1 + 0.9 * 2 / 2.5)
    assert factor(3) == pytest.approx(0.1 + 0.9 * (1 + cos(pi * 0.5 / 7.5)) / 2)
    assert factor(9) < factor(8) < factor(3)


def test_cycles_grow_and_peaks_fall() -> None:
    factor = cosine_with_restarts(5, 1, cycle_mult=2.0, gamma=0.5)
    peaks = [step for step in range(1, 31) if factor(step) > factor(step - 1) and factor(step) > factor(step + 1)]
    assert peaks == [1, 6, 15]
    assert [factor(step) for step in peaks] == [1.0, 0.5, 0.25]


def test_cosine_without_restarts_stays_at_the_floor_and_groups_have_their_own() -> None:
    factor = cosine_with_restarts(4, 0, floor=(0.0, 0.5), restarts=False)
    assert factor(0) == [0.0, 0.5]
    assert factor(2) == pytest.approx([0.5, 0.75])
    assert factor(4) == factor(99) == [0.0, 0.5]


def test_warmup_then_exponential():
    factor = warmup_then_exponential(4, 100, 0.16)
    assert [factor(step) for step in (0, 1, 4)] == [0, 0.25, 1]
    assert [factor(step) for step in (54, 104, 204)] == pytest.approx([0.4, 0.16, 0.16**2])
    assert warmup_then_exponential(0, 100, 0.16)(0) == 1
