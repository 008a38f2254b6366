"""A pymunk world behind the interface of the `phyre` package (Bakhtin et al. 2019), ball tier: NOT PHYRE.

PHYRE has no wheel for current Pythons. This stand-in has 25 templates of its own with 100 variants each, under ids of
the same form `TTTTT:III`, and PHYRE's folds, actions, pictures, constants and goal rule. Its numbers are comparable
with none of PHYRE's; `IS_PHYRE` and `SOURCE` say so, and everything that it returns carries `source`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

from core.synth.phyre.cache import StatusCache
from core.synth.phyre.cache import world_fingerprint as world_fingerprint
from core.synth.phyre.folds import Split, check_setup, split_tasks
from core.synth.phyre.raster import rasterise
from core.synth.phyre.simulator import DEFAULT_STRIDE, SOURCE, SimulationStatus, simulate, user_ball, valid_actions
from core.synth.phyre.templates import TASK_IDS, scene

IS_PHYRE = False
NUM_FOLDS = 10
DEFAULT_NUM_ACTIONS = 1000


@dataclass(frozen=True, eq=False)
class Simulation:
    """What an action leads to; `images` are uint8 colour codes [F, 256, 256], row 0 at the bottom, or None."""

    status: SimulationStatus
    images: UInt8[np.ndarray, "F 256 256"] | None
    source: str = SOURCE


class ActionSimulator:
    """Simulates actions in the tasks of a list, by their places in it."""

    source = SOURCE

    def __init__(self, tasks: Sequence[str]):
        self.task_ids = tuple(tasks)
        self._scenes = [scene(task) for task in tasks]

    def simulate_action(
        self,
        task_index: int | np.integer,
        action: Sequence[float] | Float[np.ndarray, "3"],
        *,
        need_images: bool = True,
        need_featurized_objects: bool = False,
        stride: int = DEFAULT_STRIDE,
    ) -> Simulation:
        """Put the user's ball (x, y, r) into a task and let go; one picture every `stride` steps, the first after one.

        An invalid action has status INVALID_INPUT and no pictures. ValueError for anything but three numbers, and for
        featurized objects, which this world does not offer.
        """
        if need_featurized_objects:
            raise ValueError("need_featurized_objects=True: the stand-in for PHYRE gives pictures only")
        puzzle, action = self._scenes[task_index], _checked(action)
        if not valid_actions(puzzle, action[None])[0]:
            return Simulation(SimulationStatus.INVALID_INPUT, None)
        return Simulation(*simulate((*puzzle.bodies, user_ball(action)), puzzle.goal, stride, need_images))

    def first_frame(
        self, task_index: int | np.integer, action: Sequence[float] | Float[np.ndarray, "3"]
    ) -> UInt8[np.ndarray, "256 256"] | None:
        """The first picture of `simulate_action`, without simulating; None for an invalid action.

        pymunk moves bodies by the speeds they had before a step: after one step all are where they started.
        """
        puzzle, action = self._scenes[task_index], _checked(action)
        if not valid_actions(puzzle, action[None])[0]:
            return None
        return rasterise((user_ball(action),), _start_picture(puzzle.task_id))


def _checked(action: Sequence[float] | Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    checked = np.asarray(action, np.float64)
    if checked.shape != (3,):
        raise ValueError(f"an action is (x, y, radius), three numbers in [0, 1]; found shape {list(checked.shape)}")
    return checked


@lru_cache(maxsize=512)
def _start_picture(task_id: str) -> UInt8[np.ndarray, "256 256"]:
    return rasterise(scene(task_id).bodies)


def get_fold(setup: str, fold: int) -> Split:
    """Training, development and test tasks of fold 0 to 9, each sorted."""
    if not 0 <= fold < NUM_FOLDS:
        raise ValueError(f"fold {fold} is not one of 0 to {NUM_FOLDS - 1}")
    return split_tasks(TASK_IDS, setup, fold)


def eval_setup_to_action_tier(setup: str) -> str:
    check_setup(setup)
    return "ball"


def initialize_simulator(tasks: Sequence[str], tier: str) -> ActionSimulator:
    """ValueError for a task that does not exist or a tier other than `ball`."""
    _check_tier(tier)
    return ActionSimulator(tasks)


def get_default_100k_cache(
    tier: str, num_actions: int = DEFAULT_NUM_ACTIONS, num_workers: int | None = None
) -> StatusCache:
    """The list of actions with their statuses; PHYRE has 100,000 actions, this world as many as one cares to simulate.

    Tasks are simulated, by `num_workers` processes (None: one per core), when their statuses are first asked for.
    """
    _check_tier(tier)
    return StatusCache(num_actions, num_workers or len(os.sched_getaffinity(0)))


def _check_tier(tier: str) -> None:
    if tier != "ball":
        raise ValueError(f"action tier {tier!r} is not 'ball', the only one of the stand-in for PHYRE")
