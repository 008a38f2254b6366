"""What becomes of a fixed list of random actions in every puzzle, simulated once and kept on disk."""

import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float32, Int8
from tqdm import tqdm

from core.data.cache import cache_folder
from core.data.errors import DataError
from core.files import replacing
from core.parallel import ordered_map
from core.synth.phyre.simulator import MAX_STEPS, SOURCE, MovingBodies, simulate, user_ball, valid_actions
from core.synth.phyre.templates import TASK_IDS, scene

ACTIONS_SEED = 0
ACTIONS_AT_A_TIME = 200
PENDING = -100
"""Stands for a status that is not simulated yet."""

Actions = Float32[np.ndarray, "N 3"]


def random_actions(num_actions: int) -> Actions:
    """The list of (x, y, r), uniform in [0, 1); a shorter list is the beginning of a longer one."""
    return np.random.default_rng(ACTIONS_SEED).random((num_actions, 3), dtype=np.float32)


def action_statuses(task_and_actions: tuple[str, Actions]) -> Int8[np.ndarray, "N"]:
    """The `SimulationStatus` of each action in a task."""
    task_id, actions = task_and_actions
    puzzle = scene(task_id)
    statuses = np.zeros(len(actions), np.int8)
    for number in np.flatnonzero(valid_actions(puzzle, actions)):
        bodies = (*puzzle.bodies, user_ball(actions[number]))
        statuses[number], _ = simulate(bodies, puzzle.goal, need_images=False)
    return statuses


@cache
def world_fingerprint() -> str:
    """Changes with any puzzle, and with what the simulator makes of the first variant of each template, to the bit."""
    digest = hashlib.sha256()
    for task_id in TASK_IDS:
        puzzle = scene(task_id)
        for body in puzzle.bodies:
            digest.update(np.array([body.colour, body.x, body.y, body.angle, body.radius]).tobytes())
            digest.update(b"".join(polygon.tobytes() for polygon in body.polygons))
        if task_id.endswith(":000"):
            actions = random_actions(100)
            first = actions[valid_actions(puzzle, actions)][0]
            moving = MovingBodies((*puzzle.bodies, user_ball(first)), puzzle.goal)
            for _ in range(MAX_STEPS):
                moving.step()
            digest.update(np.array(moving.poses()).tobytes())
    return digest.hexdigest()[:16]


class StatusCache:
    """Statuses of the first `num_actions` of the list, under the names of PHYRE's simulation cache.

    A task is simulated, by `num_workers` processes, when it is first asked for. The file that keeps the results is
    filled bit by bit: whatever ends the work, even kill -9, the next call continues it.
    """

    source = SOURCE

    def __init__(self, num_actions: int, num_workers: int):
        self.action_array = random_actions(num_actions)
        self.path = cache_folder() / f"phyre-stand-in-statuses-{num_actions}-{world_fingerprint()}.npy"
        self._num_workers = num_workers

    def get_sample(self, tasks: Sequence[str], num_samples: int | None = None) -> dict[str, Any]:
        """Of the first `num_samples` actions (None: all): `task_ids`, `actions` [N,3], `simulation_statuses` [tasks,N].

        Raises ValueError for a task that does not exist, DataError if the results cannot be kept.
        """
        rows = [_ROWS[scene(task).task_id] for task in tasks]
        with self._open() as kept:
            self._simulate_missing(kept, sorted(set(rows)))
            statuses = np.array(kept[rows, :num_samples])
        return {
            "task_ids": tuple(tasks),
            "actions": self.action_array[:num_samples],
            "simulation_statuses": statuses,
            "source": self.source,
        }

    @contextmanager
    def _open(self) -> Iterator[np.ndarray]:
        """The file as an int8 array [all tasks, N], which no other process has open meanwhile."""
        with ExitStack() as stack:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(self.path.with_name(f".{self.path.name}.lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not self.path.exists():
                    self._create()
                kept = np.lib.format.open_memmap(self.path, mode="r+")
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{self.path}: cannot keep the statuses of simulated actions there ({error}). Remove the file if "
                    "it is damaged; make room, or set OBJECTCENTRIC_CACHE to a folder with space"
                ) from error
            yield kept
            kept.flush()

    def _create(self) -> None:
        with replacing(self.path, durable=True) as partial, partial.open("wb") as file:
            np.save(file, np.full((len(_ROWS), len(self.action_array)), PENDING, np.int8))

    def _simulate_missing(self, kept: Int8[np.ndarray, "tasks N"], rows: Sequence[int]) -> None:
        starts = range(0, kept.shape[1], ACTIONS_AT_A_TIME)
        blocks = [(row, slice(start, start + ACTIONS_AT_A_TIME)) for row in rows for start in starts]
        missing = [(row, span) for row, span in blocks if (kept[row, span] == PENDING).any()]
        if not missing:
            return
        jobs = ((TASK_IDS[row], self.action_array[span]) for row, span in missing)
        total = sum(kept[row, span].size for row, span in missing)
        with tqdm(total=total, desc="simulating actions once", unit=" actions", disable=None) as bar:
            for (row, span), statuses in zip(missing, ordered_map(action_statuses, jobs, self._num_workers)):
                kept[row, span] = statuses
                bar.update(len(statuses))


_ROWS = {task_id: row for row, task_id in enumerate(TASK_IDS)}
