"""What is said of many scores: mean, spread and how sure the mean is."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

RESAMPLINGS, SEED = 10_000, 0
VALUES_AT_A_TIME = 1 << 22


def bootstrap_interval(
    values: Float64[np.ndarray, " n"], resamplings: int = RESAMPLINGS, seed: int = SEED
) -> tuple[float, float]:
    """The 95 % percentile interval of the mean (Efron 1979): the same for the same values, in any order of calls."""
    generator = np.random.default_rng(seed)
    at_a_time = max(1, VALUES_AT_A_TIME // len(values))
    means = [
        values[generator.integers(len(values), size=(min(at_a_time, resamplings - begin), len(values)))].mean(axis=1)
        for begin in range(0, resamplings, at_a_time)
    ]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


def summary_of(values: Float64[np.ndarray, " n"]) -> dict[str, float | int | None]:
    """`mean`, `std` (with n - 1), `low` and `high` of the samples that have a value, and their number `n`."""
    valid = values[~np.isnan(values)]
    if not len(valid):
        return {"mean": None, "std": None, "low": None, "high": None, "n": 0}
    low, high = bootstrap_interval(valid)
    std = float(valid.std(ddof=1)) if len(valid) > 1 else 0.0
    return {"mean": float(valid.mean()), "std": std, "low": low, "high": high, "n": len(valid)}


def over_seeds(means: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, float | int]]:
    """Mean and standard deviation (with n - 1) over runs that differ in their seed alone, of scores that all have."""
    names = [name for name in means[0] if all(of.get(name) is not None for of in means)]
    columns = {name: np.array([of[name] for of in means], dtype=np.float64) for name in names}
    return {
        name: {"mean": float(column.mean()), "std": float(column.std(ddof=1)), "n": len(column)}
        for name, column in columns.items()
    }
