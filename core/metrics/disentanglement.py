"""How well single dimensions of a code stand for single factors of variation.

Shapes: N samples (objects, each with the code of the slot that holds it), D code dimensions, F factors. Factors are
columns of numbers; `discrete` says of each whether it is a category or a quantity. All of it is numpy and scikit-learn
on the CPU, and a function of its seed. D, C and I, MIG, SAP and the FactorVAE score measure different things, see
Locatello et al. 2019 (arXiv 1811.12359) for how they relate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import joblib
import numpy as np
from jaxtyping import Float, Float64, Int64, Shaped
from scipy.stats import entropy
from sklearn.base import BaseEstimator
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC
from tqdm import tqdm

Codes = Float[np.ndarray, "N D"]
Factors = Shaped[np.ndarray, "N F"]

BINS = 20  # of codes and of continuous factors, where a score counts values
FEWEST_ALIKE = 4  # samples that share a value, for it to say something about the spread of codes
PEDESTAL = 1e-11  # added to importances, so that empty rows have an entropy


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness (Eastwood and Williams 2018), each at most 1.

    Informativeness is the mean over factors of the accuracy (discrete) or R2 (continuous) of the predictions;
    importance[d, f] is how much dimension d contributes to predicting factor f.
    """

    disentanglement: float
    completeness: float
    informativeness_train: float
    informativeness_test: float
    importance: Float64[np.ndarray, "D F"]
    train_scores: Float64[np.ndarray, F]
    test_scores: Float64[np.ndarray, F]


def dci(
    codes_train: Codes,
    factors_train: Shaped[np.ndarray, "_N _F"],
    codes_test: Shaped[np.ndarray, "M D"],
    factors_test: Shaped[np.ndarray, "_M _F"],
    discrete: Sequence[bool],
    *,
    seed: int = 0,
    num_workers: int = -1,
    as_original: bool = False,
    progress: bool = False,
) -> DCI:
    """Predict every factor from the codes by gradient-boosted trees, and look at which dimensions they use.

    `num_workers` processes fit one factor each (-1: as many as there are cores); the result does not depend on it.

    as_original: as EfficientMORL's code does it. All factors, discrete ones too, go to regressors whose predictions
        count where they are exactly right, so that informativeness is about 0, and the fits share one stream of random
        numbers, so that they run one after the other.

    Raises ValueError for codes and factors of different lengths, values that are not finite, or a factor that is the
    same for all training samples.
    """
    for codes, factors, part in ((codes_train, factors_train, "training"), (codes_test, factors_test, "test")):
        if not (len(codes) == len(factors) > 0) or factors.shape[1] != len(discrete):
            raise ValueError(
                f"{part} data: expected as many rows of codes as of factors and {len(discrete)} columns of factors, "
                f"found codes {codes.shape} and factors {factors.shape}"
            )
        if not (np.isfinite(codes).all() and np.isfinite(factors).all()):
            raise ValueError(f"{part} data: codes or factors hold NaN or infinite values")
    constant = np.flatnonzero((factors_train == factors_train[0]).all(axis=0))
    if len(constant) and not as_original:
        raise ValueError(f"factors {constant.tolist()} are the same for all training samples: leave them out")
    if as_original:
        stream = np.random.RandomState(seed)
        estimators = [GradientBoostingRegressor(random_state=stream) for _ in discrete]
        num_workers = 1
    else:
        kinds = (GradientBoostingClassifier if category else GradientBoostingRegressor for category in discrete)
        estimators = [kind(random_state=seed) for kind in kinds]
    return fit_dci(estimators, codes_train, factors_train, codes_test, factors_test, num_workers, as_original, progress)


def fit_dci(
    estimators: Sequence[BaseEstimator],
    codes_train: Codes,
    factors_train: Factors,
    codes_test: Shaped[np.ndarray, "M D"],
    factors_test: Shaped[np.ndarray, "M F"],
    num_workers: int = -1,
    exact_match: bool = False,
    progress: bool = False,
) -> DCI:
    """DCI from one estimator per factor, which must have `feature_importances_` when fitted.

    `exact_match` scores the share of predictions that equal the factor in place of the estimator's own score.
    """
    jobs = (
        joblib.delayed(_fit_factor)(
            estimator, codes_train, factors_train[:, f], codes_test, factors_test[:, f], exact_match
        )
        for f, estimator in enumerate(estimators)
    )
    # At least as many factors as cores as a rule; results come in the order of the factors.
    fits = joblib.Parallel(n_jobs=num_workers, return_as="generator")(jobs)
    fits = list(tqdm(fits, total=len(estimators), desc="DCI", unit="factor", disable=not progress))
    importance = np.stack([fit[0] for fit in fits], axis=1)
    train_scores, test_scores = (np.array([fit[i] for fit in fits]) for i in (1, 2))
    return DCI(
        disentanglement=disentanglement(importance),
        completeness=completeness(importance),
        informativeness_train=float(train_scores.mean()),
        informativeness_test=float(test_scores.mean()),
        importance=importance,
        train_scores=train_scores,
        test_scores=test_scores,
    )


def _fit_factor(estimator, codes_train, factor_train, codes_test, factor_test, exact_match):
    """Importances, and scores on training and test data."""
    estimator.fit(codes_train, factor_train)
    if exact_match:
        scores = [
            float(np.mean(estimator.predict(codes) == factor))
            for codes, factor in ((codes_train, factor_train), (codes_test, factor_test))
        ]
    else:
        scores = [estimator.score(codes_train, factor_train), estimator.score(codes_test, factor_test)]
    return np.abs(estimator.feature_importances_), *scores


def disentanglement(importance: Shaped[np.ndarray, "D F"]) -> float:
    """1 if every dimension serves one factor alone, 0 if each serves all alike; weighted by what a dimension serves."""
    return _concentration(importance)


def completeness(importance: Shaped[np.ndarray, "D F"]) -> float:
    """1 if every factor is served by one dimension alone, 0 if each is served by all alike."""
    return _concentration(importance.T)


def _concentration(importance: Shaped[np.ndarray, "R C"]) -> float:
    """One minus the entropy of each row, to the base of its length; the mean weighted by the sums of rows."""
    importance = np.asarray(importance, np.float64)
    num_columns = importance.shape[1]
    if num_columns == 1:
        return 1.0
    concentration = 1 - entropy(importance + PEDESTAL, axis=1, base=num_columns)
    weights = importance.sum(axis=1)
    if weights.sum() == 0:
        weights = np.ones_like(weights)
    return float(np.sum(concentration * weights / weights.sum()))


def mutual_information_gap(codes: Codes, factors: Factors, discrete: Sequence[bool], bins: int = BINS) -> float:
    """MIG (Chen et al. 2018, eq. 6), in 0..1: between the two dimensions that know most of a factor, over its entropy.

    Mean over factors that vary. Codes and continuous factors are counted in `bins` bins of equal width.
    """
    counted = np.stack([_binned(column, bins) for column in codes.T], axis=1)
    gaps = []
    for column, category in zip(factors.T, discrete):
        labels = _labels(column, category, bins)
        if labels.max() == 0:
            continue
        knows = np.sort([mutual_info_score(labels, code) for code in counted.T])
        runner_up = knows[-2] if len(knows) > 1 else 0.0
        gaps.append((knows[-1] - runner_up) / entropy(np.bincount(labels)))
    return float(np.mean(gaps)) if gaps else float("nan")


def separated_attribute_predictability(
    codes_train: Codes,
    factors_train: Factors,
    codes_test: Shaped[np.ndarray, "M D"],
    factors_test: Shaped[np.ndarray, "M F"],
    discrete: Sequence[bool],
) -> float:
    """SAP (Kumar et al. 2018), in 0..1: between the two dimensions that alone predict a factor best, mean over factors.

    A continuous factor is predicted by a line (score: R2 on the training samples), a discrete one by a linear SVM
    (score: accuracy on the test samples, as in Locatello et al. 2019). Factors that do not vary are left out.
    """
    gaps = []
    for f, category in enumerate(discrete):
        train, test = factors_train[:, f], factors_test[:, f]
        if (train == train[0]).all():
            continue
        if category:
            scores = [_svm_accuracy(*pair, train, test) for pair in zip(codes_train.T, codes_test.T)]
        else:
            scores = [_squared_correlation(code, train) for code in codes_train.T]
        best = sorted([0.0, *scores])
        gaps.append(best[-1] - best[-2])
    return float(np.mean(gaps)) if gaps else float("nan")


def _svm_accuracy(code_train, code_test, train, test) -> float:
    scale = code_train.std()
    if scale == 0:
        return 0.0
    standardised = [((code - code_train.mean()) / scale)[:, None] for code in (code_train, code_test)]
    machine = LinearSVC(C=0.01, class_weight="balanced", random_state=0, max_iter=5000)
    return float(machine.fit(standardised[0], train).score(standardised[1], test))


def _squared_correlation(code, factor) -> float:
    code, factor = code - code.mean(), factor - factor.mean()
    variances = (code**2).sum() * (factor**2).sum()
    return float((code @ factor) ** 2 / variances) if variances > 0 else 0.0


def factor_vae_score(
    codes: Codes,
    factors: Factors,
    discrete: Sequence[bool],
    *,
    seed: int = 0,
    num_votes: int = 2000,
    batch_size: int = 32,
    bins: int = BINS,
) -> float:
    """FactorVAE score (Kim and Mnih 2018, section 4), the accuracy of a majority vote; chance is about 1 / F.

    A vote: draw a factor and a value of it, `batch_size` samples that share this value, and find the dimension whose
    variance among them, relative to that of all samples, is least. The most frequent factor of each dimension is its
    class; half of the votes decide on it, the other half are scored. Samples are drawn from the given ones with
    replacement; continuous factors share a value when they share one of `bins` bins. Values that fewer than
    `FEWEST_ALIKE` samples have are left out, and so are factors with fewer than two others. NaN if no factor is left.
    """
    variances = codes.var(axis=0)
    active = variances > 0
    groups = {}
    for f, (column, category) in enumerate(zip(factors.T, discrete)):
        labels = _labels(column, category, bins)
        alike = [np.flatnonzero(labels == value) for value in range(labels.max() + 1)]
        alike = [samples for samples in alike if len(samples) >= FEWEST_ALIKE]
        if len(alike) > 1:
            groups[f] = alike
    if not groups or not active.any():
        return float("nan")
    rng = np.random.default_rng(seed)
    usable = list(groups)
    counts = np.zeros((2, int(active.sum()), len(discrete)), np.int64)
    for vote in range(num_votes):
        f = usable[rng.integers(len(usable))]
        alike = groups[f][rng.integers(len(groups[f]))]
        chosen = codes[rng.choice(alike, batch_size)][:, active]
        least = np.argmin(chosen.var(axis=0) / variances[active])
        counts[vote % 2, least, f] += 1
    deciding, scored = counts
    return float(scored[np.arange(len(scored)), deciding.argmax(axis=1)].sum() / scored.sum())


def _labels(column: Shaped[np.ndarray, N], category: bool, bins: int) -> Int64[np.ndarray, N]:
    """Values as numbers from 0 on: each its own, or those of a quantity by bins."""
    if category:
        return np.unique(column, return_inverse=True)[1].astype(np.int64)
    return np.unique(_binned(column, bins), return_inverse=True)[1].astype(np.int64)


def _binned(column: Shaped[np.ndarray, N], bins: int) -> Int64[np.ndarray, N]:
    low, high = float(column.min()), float(column.max())
    if low == high:
        return np.zeros(len(column), np.int64)
    return np.minimum(((column - low) / (high - low) * bins).astype(np.int64), bins - 1)
