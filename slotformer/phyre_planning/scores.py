"""What a planner's scores are worth: success rates and AUCCESS, beside those of random and of perfect orders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.data.errors import DataError
from core.metrics.phyre import auccess, auccess_weights, solved_at_random, solved_within
from core.provenance import FILE, read_provenance
from slotformer.phyre_planning.results import LOGIT, STATUS, Scores, collect

ATTEMPTS = (1, 2, 5, 10, 20, 50, 100)
"""Columns of the table."""
MODEL, RANDOM, ORACLE = "SlotFormer", "random", "oracle"
RANKINGS = {
    MODEL: "actions by the planner's logit, of equal ones the lower number first",
    RANDOM: "the mean over all orders of the actions",
    ORACLE: "actions that solve the task first: the share of tasks that any of them solves",
}


def evaluate(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Success rates (in 0..1) and AUCCESS (in percent) of the planner, and of orders to compare it with.

    `over_random` is how far AUCCESS is above that of random orders, with the standard error of its mean over tasks.
    """
    statuses = scores[STATUS]
    solved = {
        MODEL: solved_within(scores[LOGIT], statuses),
        RANDOM: solved_at_random(statuses),
        ORACLE: solved_within(statuses, statuses),
    }
    gains = 100 * np.average(solved[MODEL] - solved[RANDOM], axis=1, weights=auccess_weights())
    error = float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else None
    return {
        "AUCCESS": {name: 100 * auccess(of) for name, of in solved.items()},
        "over_random": {"mean": float(gains.mean()), "standard_error": error},
        "success_rate": {name: of.mean(axis=0).tolist() for name, of in solved.items()},
        "rankings": RANKINGS,
        "num_tasks": len(statuses),
        "num_actions": statuses.shape[1],
        "num_valid": int((statuses != 0).sum()),
        "num_solving": int((statuses == 1).sum()),
    }


def table(report: Mapping[str, Any]) -> list[str]:
    """A line for each ranking: success rates after some attempts, and AUCCESS."""
    lines = ["".join([f"{'success@':12}", *(f"{count:>7}" for count in ATTEMPTS), f"{'AUCCESS':>10}"])]
    for name, rates in report["success_rate"].items():
        cells = [f"{100 * rates[count - 1]:7.2f}" for count in ATTEMPTS]
        lines.append("".join([f"{name:12}", *cells, f"{report['AUCCESS'][name]:10.2f}"]))
    return lines


def mean_over_folds(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean AUCCESS of every ranking over folds, and its standard deviation.

    Raises DataError if the folds were not planned in the same way.
    """
    for key in ("source", "as_original", "num_actions"):
        if len(values := {report[key] for report in reports}) > 1:
            raise DataError(
                f"--collect {reports[0]['folder']} ...: folders of {key} {' and '.join(sorted(map(str, values)))}; "
                "expected folds that were planned in the same way"
            )
    folds = {name: [report["AUCCESS"][name] for report in reports] for name in RANKINGS}
    return {
        "AUCCESS": {name: float(np.mean(values)) for name, values in folds.items()},
        "std": {name: float(np.std(values, ddof=1)) for name, values in folds.items()},
        "folds": folds,
        **{key: [report[key] for report in reports] for key in ("folder", "fold")},
        **{key: reports[0][key] for key in ("source", "is_phyre", "as_original", "num_actions")},
    }


def report_on(folder: Path) -> dict[str, Any]:
    """`evaluate` of all parts in `folder`, and what is known of their origin. Raises DataError."""
    made_by = read_provenance(folder / FILE) or {}
    origin = {key: made_by.get(key) for key in ("is_phyre", "source", "as_original", "weights", "weights_sha256")}
    fold = made_by.get("configs", {}).get("params", {}).get("phyre_fold")
    return {"folder": str(folder), "fold": fold, **origin, **evaluate(collect(folder))}


def world_of(origin: Mapping[str, Any]) -> str:
    """Which world numbers come from, and loudly if that is not PHYRE."""
    if origin.get("source") is None:
        return "world: not known, there is no provenance.json"
    warning = "" if origin["is_phyre"] else ". THIS IS NOT PHYRE: its numbers can be compared with none of PHYRE's"
    return f"world: {origin['source']}{warning}"


def lines_on(report: Mapping[str, Any]) -> list[str]:
    """What is printed of `report_on`."""
    gain, valid = report["over_random"], report["num_valid"] / report["num_tasks"]
    error = "" if gain["standard_error"] is None else f", standard error over tasks {gain['standard_error']:.2f}"
    how = ", planned as the original does" if report["as_original"] else ""
    return [
        world_of(report),
        f"{report['folder']}: {report['num_tasks']:,} tasks, {report['num_actions']:,} actions in each, of which "
        f"{valid:,.1f} are valid{how}",
        *table(report),
        f"above random orders: {gain['mean']:.2f}{error}",
        f"AUCCESS = {report['AUCCESS'][MODEL]:.2f}",
    ]


def lines_on_folds(mean: Mapping[str, Any]) -> list[str]:
    """What is printed of `mean_over_folds`."""
    lines = [f"{name:12}{mean['AUCCESS'][name]:10.2f} +- {mean['std'][name]:.2f}" for name in RANKINGS]
    return [
        world_of(mean),
        f"mean of {len(mean['folder'])} folds, with their standard deviation:",
        *lines,
        f"AUCCESS = {mean['AUCCESS'][MODEL]:.2f}",
    ]
