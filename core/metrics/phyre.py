"""How many attempts an agent needs in PHYRE (Bakhtin et al. 2019): success after k attempts and AUCCESS.

Statuses: 1 solved, -1 not solved, 0 invalid action, which is no attempt.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer, Shaped

NOT_COMPUTED = -100
MOST_ATTEMPTS = 100

Scores = tuple[Float[np.ndarray, "tasks N"], Shaped[np.ndarray, "tasks N"]]
"""Confidence and status of every action in every task."""


def merge_parts(parts: Sequence[Scores]) -> Scores:
    """Put together scores that were computed in parts; -100 stands where a part has no status.

    Raises ValueError if some entry is in no part.
    """
    confidences, statuses = (np.full(array.shape, float(NOT_COMPUTED)) for array in parts[0])
    for confidence, status in parts:
        is_there = status != NOT_COMPUTED
        confidences[is_there], statuses[is_there] = confidence[is_there], status[is_there]
    missing = np.argwhere(statuses == NOT_COMPUTED)
    if len(missing):
        task, action = missing[0]
        raise ValueError(
            f"{len(missing)} of {statuses.size} actions are in none of the {len(parts)} parts, first task {task}, "
            f"action {action}. Run the missing parts"
        )
    return confidences, statuses


def solved_within(
    confidences: Float[np.ndarray, "tasks N"], statuses: Shaped[np.ndarray, "tasks N"], attempts: int = MOST_ATTEMPTS
) -> Bool[np.ndarray, "tasks K"]:
    """Whether a task is solved by its first 1, 2, ..., `attempts` valid actions, most confident first.

    Of equal confidence the lower number comes first. With fewer valid actions all of them count.
    """
    order = np.argsort(-confidences, axis=1, kind="stable")
    ranked = np.take_along_axis(statuses, order, axis=1)
    return np.stack([_solved_after(row, attempts) for row in ranked])


def solved_in_log(
    log: Integer[np.ndarray, "A 2"], num_tasks: int, attempts: int = MOST_ATTEMPTS
) -> Bool[np.ndarray, "tasks K"]:
    """The same from a log of (task, status) in the order of the attempts."""
    return np.stack([_solved_after(log[log[:, 0] == task, 1], attempts) for task in range(num_tasks)])


def _solved_after(statuses: Shaped[np.ndarray, "N"], attempts: int) -> Bool[np.ndarray, "K"]:
    tried = statuses[statuses != 0][:attempts] == 1
    first = int(tried.argmax()) if tried.any() else attempts
    return np.arange(attempts) >= first


def solved_at_random(
    statuses: Shaped[np.ndarray, "tasks N"], attempts: int = MOST_ATTEMPTS
) -> Float64[np.ndarray, "tasks K"]:
    """The chance that a task is solved by its first 1, 2, ..., `attempts` valid actions in an order drawn by lot.

    It is the mean of `solved_within` over all orders.
    """
    valid, solved = (statuses != 0).sum(axis=1)[:, None], (statuses == 1).sum(axis=1)[:, None]
    left = np.maximum(valid - np.arange(attempts), 1)  # once none is left, nothing changes
    fails = np.clip((left - solved) / left, 0, 1)
    return 1 - np.cumprod(fails, axis=1)


def auccess_weights(attempts: int = MOST_ATTEMPTS) -> Float64[np.ndarray, "K"]:
    """ln(k+1) - ln(k) for k = 1 ... `attempts`: a solution counts the more the earlier it comes."""
    return np.diff(np.log(np.arange(1, attempts + 2)))


def auccess(solved: Bool[np.ndarray, "tasks K"] | Float[np.ndarray, "tasks K"], attempts: int | None = None) -> float:
    """AUCCESS in 0..1: mean over tasks and, weighted, over 1 to `attempts` attempts (all K by default).

    In place of what is solved there may be the chances of it.
    """
    rates = solved[:, :attempts].mean(axis=0)
    return float(np.average(rates, weights=auccess_weights(len(rates))))
