"""Probes on codes whose answer is known."""

import numpy as np
import pytest

from core.metrics.property_prediction import is_discrete, predict_properties

NAMES, DISCRETE = ["shape", "x", "radius"], [True, False, False]


def scene(seed: int, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Codes that hold the shape and x linearly, and the radius as a distance from the origin."""
    rng = np.random.default_rng(seed)
    shape, x, plane = rng.integers(3, size=count), rng.normal(size=count), rng.normal(size=(count, 2))
    radius = np.linalg.norm(plane, axis=1)
    codes = np.column_stack([shape == 0, shape == 1, 5 * x + 2, plane]).astype(float)
    return codes, np.column_stack([shape, x, radius]).astype(float)


def test_linear_probe_reads_what_is_linear_and_mlp_the_rest():
    found = predict_properties(*scene(0), *scene(1), NAMES, DISCRETE, num_workers=1)
    assert list(found) == NAMES
    assert found["shape"].measure == "accuracy"
    assert found["shape"].linear == 1
    assert found["shape"].chance == pytest.approx(1 / 3, abs=0.08)
    assert found["x"].measure == "R2"
    assert found["x"].linear > 0.99
    assert found["x"].chance == pytest.approx(0, abs=0.05)
    assert found["radius"].linear < 0.1
    assert found["radius"].mlp > 0.8


def test_noise_is_no_better_than_chance():
    factors = scene(2)[1]
    codes = np.random.default_rng(3).normal(size=(400, 4))
    found = predict_properties(codes[:200], factors[:200], codes[200:], factors[200:], NAMES, DISCRETE, num_workers=1)
    assert found["shape"].linear < 0.45
    assert max(found["x"].linear, found["x"].mlp, found["radius"].linear, found["radius"].mlp) < 0.1


def test_result_does_not_depend_on_the_number_of_workers():
    data = (*scene(4, 100), *scene(5, 100))
    assert predict_properties(*data, NAMES, DISCRETE, num_workers=1) == predict_properties(
        *data, NAMES, DISCRETE, num_workers=2
    )


def test_a_category_without_alternatives_scores_as_chance():
    codes, factors = scene(6, 50)
    factors[:, 0] = 1
    found = predict_properties(codes, factors, codes, factors, NAMES, DISCRETE, num_workers=1)
    assert (found["shape"].chance, found["shape"].linear, found["shape"].mlp) == (1, 1, 1)


@pytest.mark.parametrize(
    ("name", "values", "category"),
    [
        ("shape", [1.0, 2.0, 3.0], True),
        ("x", [0.0, 1.0, 2.0], False),  # whole pixels
        ("scale", [0.5, 0.6], False),
        ("colour_r", [0.0, 1.0], True),
        ("colour_r", [0.1, 0.7, 0.3], False),
        ("material_2", [4.0, 5.0, 6.0], True),
        ("height", list(range(30)), False),
    ],
)
def test_kind_of_a_factor(name, values, category):
    assert is_discrete(name, np.array(values)) is category
