"""What small networks can read of an object's properties from the slot that holds it (Dittadi et al. 2022).

Shapes: N objects, D slot dimensions, F properties.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import joblib
import numpy as np
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

HIDDEN_UNITS = 256
DISCRETE_NAMES = ("shape", "size", "material", "color", "colour", "texture")
CONTINUOUS_NAMES = ("x", "y", "z", "rotation", "orientation", "scale")


@dataclass(frozen=True)
class Prediction:
    """Test scores of one property: accuracy for a discrete one, R2 (at most 1, 0 for its mean) for a continuous one.

    `chance` is what the most frequent training value, or the mean of the training values, scores.
    """

    measure: str
    chance: float
    linear: float
    mlp: float


def is_discrete(name: str, values: Shaped[np.ndarray, N]) -> bool:
    """Whether a factor is a category: by its name; an unknown one if it takes two values, or at most 20 whole ones."""
    if name in DISCRETE_NAMES:
        return True
    if name in CONTINUOUS_NAMES:
        return False
    distinct = np.unique(values)
    return len(distinct) <= 2 or (len(distinct) <= 20 and bool((distinct == np.round(distinct)).all()))


def predict_properties(
    codes_train: Float[np.ndarray, "N D"],
    factors_train: Shaped[np.ndarray, "N F"],
    codes_test: Float[np.ndarray, "M D"],
    factors_test: Shaped[np.ndarray, "M F"],
    names: Sequence[str],
    discrete: Sequence[bool],
    *,
    seed: int = 0,
    num_workers: int = -1,
    progress: bool = False,
) -> dict[str, Prediction]:
    """Predict every property from the slots by a linear model and by an MLP with one hidden layer of 256 units.

    Slots and continuous properties are standardised by the training objects. `num_workers` processes fit one property
    each (-1: as many as there are cores); the result does not depend on it.
    """
    jobs = (
        joblib.delayed(_predict)(
            codes_train, factors_train[:, f], codes_test, factors_test[:, f], bool(discrete[f]), seed
        )
        for f in range(len(names))
    )
    found = joblib.Parallel(n_jobs=num_workers, return_as="generator")(jobs)
    return dict(zip(names, tqdm(found, total=len(names), desc="probes", unit="property", disable=not progress)))


def _predict(codes_train, train, codes_test, test, category: bool, seed: int) -> Prediction:
    hidden = {"hidden_layer_sizes": (HIDDEN_UNITS,), "alpha": 1e-2, "max_iter": 300, "random_state": seed}
    linear: BaseEstimator
    if category:
        values, counts = np.unique(train, return_counts=True)
        chance = float(np.mean(test == values[counts.argmax()]))
        if len(values) == 1:
            return Prediction("accuracy", chance, chance, chance)
        linear, mlp = LogisticRegression(max_iter=1000), MLPClassifier(**hidden)
    else:
        chance = _r2(test, train.mean())
        scaled = {"transformer": StandardScaler()}
        linear = TransformedTargetRegressor(Ridge(), **scaled)
        mlp = TransformedTargetRegressor(MLPRegressor(**hidden), **scaled)
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is part of the protocol
        for probe in (linear, mlp):
            fitted = make_pipeline(StandardScaler(), probe).fit(codes_train, train)
            scores.append(float(fitted.score(codes_test, test)))
    return Prediction("accuracy" if category else "R2", chance, *scores)


def _r2(truth: Shaped[np.ndarray, N], predicted: float) -> float:
    variation = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((truth - predicted) ** 2).sum()) / variation if variation else 0.0
