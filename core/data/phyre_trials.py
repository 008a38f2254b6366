"""Which actions in which tasks of PHYRE's ball tier a model sees (Bakhtin et al. 2019; choice: Wu et al. 2023).

They are PHYRE's where the package `phyre` can be imported; else those of a stand-in (core/synth/phyre_world.py).
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Float, Float64, Int32, Integer

from core.data.errors import DataError

TIER = "ball"
NUM_TEMPLATES = 25
TRIALS_PER_TASK = {"train": 2000, "val": 500}
"""At data_ratio 1. "val" is PHYRE's test fold, "train" its training and development folds."""
SOLVED, NOT_SOLVED = 1, -1
LISTS = Path("splits/PHYRE")

Trials = tuple[Float64[np.ndarray, "M 4"], Int32[np.ndarray, "M"]]
"""Rows (place of the task, x, y, radius), and whether each is solved, 1 or 0."""


@dataclass(frozen=True)
class World:
    """The simulator in use. `source` belongs beside every result; `version` changes when recordings would."""

    module: ModuleType
    is_phyre: bool
    source: str
    version: str


@cache
def open_world() -> World:
    """PHYRE where it is installed, else the stand-in, which is said once on standard error. DataError without both."""
    try:
        phyre = importlib.import_module("phyre")
        version = importlib.metadata.version("phyre")
    except ImportError as error:
        reason = error
    else:
        return World(phyre, True, f"PHYRE {version}", f"phyre-{version}")
    try:
        from core.synth import phyre_world
    except ImportError as error:
        raise DataError(
            f"neither PHYRE ({reason}) nor its stand-in ({error}) can be used. Install the stand-in's engine with "
            "`pip install -e '.[synth]'`, or the package phyre"
        ) from error
    print(
        f"note: PHYRE cannot be used ({reason}): tasks and physics come from a {phyre_world.SOURCE}. "
        "Its numbers say nothing about PHYRE",
        file=sys.stderr,
    )
    return World(phyre_world, False, phyre_world.SOURCE, f"phyre-stand-in-{phyre_world.world_fingerprint()}")


def ball_tasks(protocol: str, fold: int, split: str, num_tasks: int | None = None) -> list[str]:
    """Task ids of a split, or `num_tasks` of them spread evenly over the list for small runs.

    `protocol` is "within" (new tasks of known templates) or "cross" (new templates); `fold` 0 to 9.
    """
    if split not in TRIALS_PER_TASK:
        raise ValueError(f"PHYRE split {split!r} is not one of {', '.join(TRIALS_PER_TASK)}")
    if protocol not in ("within", "cross"):
        raise ValueError(f"PHYRE protocol {protocol!r} is not one of within, cross")
    tasks = tasks_of_split(*open_world().module.get_fold(f"{TIER}_{protocol}_template", fold), split)
    if num_tasks is None:
        return tasks
    return [tasks[place * len(tasks) // num_tasks] for place in range(min(num_tasks, len(tasks)))]


def tasks_of_split(train: Sequence[str], dev: Sequence[str], test: Sequence[str], split: str) -> list[str]:
    """Those of the ball tier: of the training and then the development fold, or ("val") of the test fold."""
    tasks = (*train, *dev) if split == "train" else test
    return [task for task in tasks if int(task.partition(":")[0]) < NUM_TEMPLATES]


def cached_statuses(
    tasks: Sequence[str], num_actions: int | None = None
) -> tuple[Float[np.ndarray, "N 3"], Integer[np.ndarray, "tasks N"]]:
    """The first actions (x, y, r) of the world's list and their status in each task: 1 solved, -1 not, 0 invalid.

    PHYRE has 100,000 of them. The stand-in has `num_actions` (1,000 by default), which it simulates once on all cores.
    """
    world = open_world()
    given = {} if world.is_phyre or num_actions is None else {"num_actions": num_actions}
    sample = world.module.get_default_100k_cache(TIER, **given).get_sample(list(tasks), None)
    return sample["actions"][:num_actions], sample["simulation_statuses"][:, :num_actions]


def select_trials(
    actions: Float[np.ndarray, "N 3"],
    statuses: Integer[np.ndarray, "tasks N"],
    *,
    fold: int,
    split: str,
    data_ratio: float,
    pos_ratio: float,
) -> Trials:
    """The original's choice of trials.

    Of each task as many solved and unsolved actions as the ratios give, or as there are, solved ones first; drawn with
    numpy's legacy generator seeded by the fold.
    """
    quotas = [int(int(TRIALS_PER_TASK[split] * ratio) * data_ratio) for ratio in (pos_ratio, 1 - pos_ratio)]
    generator = np.random.RandomState(fold)
    info, labels = [], []
    for task, row in enumerate(statuses):
        for status, quota in zip((SOLVED, NOT_SOLVED), quotas):
            candidates = np.flatnonzero(row == status)
            generator.shuffle(candidates)
            chosen = actions[candidates[:quota]]
            info.append(np.column_stack((np.full(len(chosen), task), chosen)))
            labels += [int(status == SOLVED)] * len(chosen)
    return np.concatenate(info).astype(np.float64), np.array(labels, np.int32)


def choose_trials(
    split: str,
    protocol: str,
    fold: int,
    data_ratio: float,
    pos_ratio: float,
    num_actions: int | None = None,
    num_tasks: int | None = None,
) -> tuple[list[str], Trials]:
    """The tasks of a split (`ball_tasks`) and the trials in them (`cached_statuses`, `select_trials`).

    With PHYRE, its whole lists of trials are read from splits/PHYRE, where the original ships them, or kept there.
    """
    tasks = ball_tasks(protocol, fold, split, num_tasks)
    stem = f"{protocol}-fold_{fold}-{split}-data_{data_ratio}-pos_{pos_ratio}"
    has_list = open_world().is_phyre and num_actions is None and num_tasks is None
    if has_list and (listed := read_trial_list(stem, len(tasks))):
        return tasks, listed
    actions, statuses = cached_statuses(tasks, num_actions)
    trials = select_trials(actions, statuses, fold=fold, split=split, data_ratio=data_ratio, pos_ratio=pos_ratio)
    if not len(trials[0]):
        raise DataError(
            f"{open_world().source}: {len(tasks)} tasks with {len(actions)} actions each give no trial of {stem}. "
            "Raise data_ratio, num_actions or num_tasks"
        )
    if has_list:
        write_trial_list(stem, trials)
    return tasks, trials


def read_trial_list(stem: str, num_tasks: int) -> Trials | None:
    """The trials of the files that the original ships for PHYRE, or None unless both are there."""
    files = [LISTS / f"{stem}.npy", LISTS / f"{stem}-label.npy"]
    if not all(file.exists() for file in files):
        return None
    try:
        info, labels = (np.load(file, allow_pickle=False) for file in files)
        if info.shape != (len(labels), 4) or labels.ndim != 1 or info[:, 0].max() >= num_tasks:
            raise ValueError(f"arrays {list(info.shape)} and {list(labels.shape)} for {num_tasks} tasks")
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{files[0]} and {files[1].name}: no list of trials [M, 4] with labels [M] ({error}). Remove both: they "
            "are made again"
        ) from error
    return info, labels


def write_trial_list(stem: str, trials: Trials) -> None:
    LISTS.mkdir(parents=True, exist_ok=True)
    for name, array in zip((f"{stem}.npy", f"{stem}-label.npy"), trials):
        partial = LISTS / f".{name}.partial"
        with partial.open("wb") as file:
            np.save(file, array)
        partial.replace(LISTS / name)
