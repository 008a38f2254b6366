"""Scores of codes whose answer is known: one dimension per factor, a rotation of that, and noise."""

import numpy as np
import pytest

from core.metrics.disentanglement import (
    completeness,
    dci,
    disentanglement,
    factor_vae_score,
    mutual_information_gap,
    separated_attribute_predictability,
)

DISCRETE = [True, True, False, False]
HALF = 400


def factors_of(seed: int, count: int = 2 * HALF) -> np.ndarray:
    """Two categories of 4 and 3 values, two quantities."""
    rng = np.random.default_rng(seed)
    categories = [rng.integers(4, size=count), rng.integers(3, size=count)]
    return np.stack([*categories, rng.random(count), rng.random(count)], axis=1).astype(float)


def perfect(factors: np.ndarray) -> np.ndarray:
    """A dimension per factor, in another order and scale, and one that stands for nothing."""
    return np.column_stack(
        [factors[:, 2] * 3 - 1, factors[:, 0], -factors[:, 3], factors[:, 1], np.zeros(len(factors))]
    )


def rotated(factors: np.ndarray) -> np.ndarray:
    """The same information, spread over all dimensions."""
    standard = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]
    return standard @ rotation


def noise(factors: np.ndarray) -> np.ndarray:
    return np.random.default_rng(4).normal(size=(len(factors), 5))


def halves(codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, ...]:
    return codes[:HALF], factors[:HALF], codes[HALF:], factors[HALF:]


def all_scores(code) -> dict[str, float]:
    factors = factors_of(0)
    codes = code(factors)
    found = dci(*halves(codes, factors), DISCRETE, num_workers=1)
    return {
        "D": found.disentanglement,
        "C": found.completeness,
        "I": found.informativeness_test,
        "MIG": mutual_information_gap(codes, factors, DISCRETE),
        "SAP": separated_attribute_predictability(*halves(codes, factors), DISCRETE),
        "FactorVAE": factor_vae_score(codes, factors, DISCRETE),
    }


def test_perfect_code_gets_perfect_scores():
    scores = all_scores(perfect)
    assert min(scores["D"], scores["C"], scores["I"]) > 0.99
    assert scores["MIG"] > 0.9  # the two quantities are counted in bins
    assert scores["FactorVAE"] == 1
    assert scores["SAP"] > 0.6  # one against the rest, a linear SVM does not find the middle of ordered values


def test_sap_of_a_perfect_code_of_two_values_is_one_minus_chance():
    factors = (factors_of(11)[:, :2] > 1).astype(float)  # halves, and a third
    gap = separated_attribute_predictability(*halves(factors, factors), [True, True])
    assert gap == pytest.approx(1 - 1 / 2, abs=0.06)  # balanced classes: the other dimension is right half of the time


def test_rotated_code_informs_but_does_not_disentangle():
    scores, best = all_scores(rotated), all_scores(perfect)
    assert scores["I"] > 0.7
    assert scores["D"] < 0.5
    assert scores["C"] < 0.5
    assert scores["MIG"] < 0.35
    assert all(scores[name] < best[name] for name in scores)


def test_noise_gets_nothing():
    scores = all_scores(noise)
    assert scores["I"] < 0.25  # chance: 1/4, 1/3, and less than the mean explains
    assert scores["D"] < 0.15
    assert scores["C"] < 0.15
    assert scores["MIG"] < 0.03
    assert scores["SAP"] < 0.1
    assert scores["FactorVAE"] < 0.45  # chance: 1/4, plus the luck of the majority


def test_informativeness_is_accuracy_or_r2_of_each_factor():
    factors = factors_of(1)
    found = dci(*halves(perfect(factors), factors), DISCRETE, num_workers=1)
    assert found.test_scores == pytest.approx(1, abs=0.01)
    assert found.importance.shape == (5, 4)
    assert found.importance.sum(axis=0) == pytest.approx(1)
    assert found.importance.argmax(axis=0).tolist() == [1, 3, 0, 2]


def test_result_depends_on_the_seed_alone():
    factors = factors_of(2)
    data = halves(noise(factors), factors)
    first, again, apart = (dci(*data, DISCRETE, seed=7, num_workers=workers) for workers in (1, 1, 2))
    assert np.array_equal(first.importance, again.importance)
    assert np.array_equal(first.importance, apart.importance)
    assert np.array_equal(first.test_scores, apart.test_scores)
    assert factor_vae_score(data[0], data[1], DISCRETE, seed=1) == factor_vae_score(data[0], data[1], DISCRETE, seed=1)


@pytest.mark.parametrize("score", [mutual_information_gap, factor_vae_score])
def test_scores_do_not_depend_on_the_order_of_dimensions(score):
    factors = factors_of(5)
    codes = rotated(factors)
    assert score(codes[:, ::-1], factors, DISCRETE) == pytest.approx(score(codes, factors, DISCRETE), abs=1e-12)


def test_original_scores_regressors_by_exact_equality():
    factors = factors_of(6)
    found = dci(*halves(perfect(factors), factors), DISCRETE, as_original=True)
    assert found.informativeness_test < 0.1
    assert found.disentanglement > 0.99


@pytest.mark.parametrize(
    ("importance", "d", "c"),
    [
        (np.eye(4), 1, 1),
        (np.ones((4, 4)), 0, 0),
        ([[1, 1, 0, 0], [0, 0, 1, 1]], 0.5, 1),  # two factors per dimension: half a bit of two is open
        ([[1, 0], [1, 0], [0, 1], [0, 1]], 1, 0.5),
        ([[1.0], [0.0]], 1, 1),  # one factor: every dimension is about it
    ],
)
def test_disentanglement_and_completeness_of_matrices(importance, d, c):
    importance = np.array(importance, float)
    assert disentanglement(importance) == pytest.approx(d, abs=1e-6)
    assert completeness(importance) == pytest.approx(c, abs=1e-6)


def test_sap_of_a_quantity_is_the_gap_of_squared_correlations():
    rng = np.random.default_rng(8)
    factor = rng.normal(size=(HALF, 1))
    codes = np.column_stack([factor[:, 0] + 0.5 * rng.normal(size=HALF), rng.normal(size=HALF)])
    squares = [np.corrcoef(code, factor[:, 0])[0, 1] ** 2 for code in codes.T]
    gap = separated_attribute_predictability(codes, factor, codes, factor, [False])
    assert gap == pytest.approx(abs(squares[0] - squares[1]), abs=1e-12)


def test_factors_that_do_not_vary_are_no_part_of_the_scores():
    factors = np.column_stack([factors_of(9), np.full(2 * HALF, 3.0)])
    discrete, codes = [*DISCRETE, True], perfect(factors)
    assert mutual_information_gap(codes, factors, discrete) == mutual_information_gap(codes, factors[:, :4], DISCRETE)
    data = halves(codes, factors)
    without = halves(codes, factors[:, :4])
    assert separated_attribute_predictability(*data, discrete) == separated_attribute_predictability(*without, DISCRETE)
    assert factor_vae_score(codes, factors, discrete) == 1
    assert np.isnan(factor_vae_score(codes, np.ones((2 * HALF, 1)), [True]))
    assert np.isnan(mutual_information_gap(codes, np.ones((2 * HALF, 1)), [True]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda codes, factors: (codes[:-1], factors), "as many rows of codes as of factors"),
        (lambda codes, factors: (codes, factors[:, :3]), "4 columns of factors"),
        (lambda codes, factors: (np.where(codes > 1, np.nan, codes), factors), "NaN or infinite"),
        (lambda codes, factors: (codes, factors * [1, 0, 1, 1]), r"factors \[1\] are the same"),
    ],
)
def test_bad_input_is_refused(change, message):
    factors = factors_of(10)
    codes, factors = change(perfect(factors)[:HALF], factors[:HALF])
    with pytest.raises(ValueError, match=message):
        dci(codes, factors, codes, factors, DISCRETE)
