"""PHYRE's ball tier (Bakhtin et al. 2019) as videos and first frames, simulated when they are first read."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from core.data.cache import cache_folder
from core.data.errors import DataError
from core.data.phyre_recordings import Recording, Recordings, Trial, recording_of
from core.data.phyre_trials import SOLVED, TIER, choose_trials, open_world
from core.nn.noise import derive_seed

STEPS_PER_SECOND = 60
MAX_STEPS = 1000
MOST_REPLACEMENTS = 100


class Phyre:
    """Trials of one split: clips of `num_frames` frames, or (`num_frames` None) whole videos of `video_len` frames.

    `read(indices)` gives `video` (n, T, 3, H, W) uint8 in channels-last memory, `label` (n,) int64, 1 if solved,
    `num_frames` (n,) int64, the frames before the last one is repeated to fill up, `trial` (n,) int64, the trials that
    were read, and `replaced` (n,) bool, whether another was asked for. A clip ends where nothing moves from one frame
    to the next. In training a trial whose clip is too short is replaced by another, a function of the first; else, and
    in whole videos, the last frame is repeated.

    `info` float64 [M, 4] holds for each trial the place of its task in `tasks` and x, y, radius; `labels` int32 [M].
    `source` names the world. `num_actions` and `num_tasks` make smaller sets. Raises DataError.
    """

    def __init__(
        self,
        split: str,
        num_frames: int | None = 6,
        *,
        video_len: int = 15,
        fps: int = 1,
        size: tuple[int, int] = (128, 128),
        protocol: str = "within",
        fold: int = 0,
        data_ratio: float = 0.1,
        pos_ratio: float = 0.2,
        reverse_color: bool = True,
        num_actions: int | None = None,
        num_tasks: int | None = None,
    ):
        self.is_whole = num_frames is None
        self.num_frames = video_len if num_frames is None else num_frames
        self.replaces_short = split == "train" and not self.is_whole
        self.tasks, (self.info, self.labels) = choose_trials(
            split, protocol, fold, data_ratio, pos_ratio, num_actions, num_tasks
        )
        self.image_size = size
        self.source = open_world().source
        self._reverse_color = reverse_color
        self._stride = STEPS_PER_SECOND // fps
        self._simulator = _Simulator(self.tasks)
        self._recordings = _recordings(f"stride-{self._stride}", size, reverse_color)
        self.path = self._recordings.path

    def __len__(self) -> int:
        return len(self.info)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The trials of `indices`, in that order."""
        trials = np.array(indices, np.int64)
        clips = self._clips(trials)
        for attempt in range(MOST_REPLACEMENTS if self.replaces_short else 0):
            short = [place for place, (_, count) in enumerate(clips) if count < self.num_frames]
            if not short:
                break
            trials[short] = [derive_seed(int(trial), attempt) % len(self) for trial in trials[short]]
            for place, clip in zip(short, self._clips(trials[short])):
                clips[place] = clip
        frames, counts = zip(*clips)
        return {
            "video": torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3),
            "label": torch.from_numpy(self.labels[trials].astype(np.int64)),
            "num_frames": torch.tensor(counts),
            "trial": torch.from_numpy(trials),
            "replaced": torch.from_numpy(trials != indices),
        }

    def _clips(self, trials: Int64[np.ndarray, "n"]) -> list[tuple[UInt8[np.ndarray, "T H W 3"], int]]:
        keys = [(self.tasks[int(row[0])], row[1:].tobytes()) for row in self.info[trials]]
        recordings = self._recordings.read(keys, self._simulate)
        for trial, (task, action), recording in zip(trials, keys, recordings):
            if recording.is_solved != self.labels[trial]:
                raise DataError(
                    f"{self.path}: task {task}, action {np.frombuffer(action).tolist()} is "
                    f"{'' if recording.is_solved else 'not '}solved, unlike its label. Videos and labels come from "
                    f"different versions of {self.source}: remove this file, and the lists in splits/PHYRE if any"
                )
        return [recording.clip(self.num_frames, self.is_whole) for recording in recordings]

    def _simulate(self, trial: Trial) -> Recording:
        result = self._simulator.run(trial, self._stride)
        return recording_of(result.images, int(result.status) == SOLVED, self.image_size, self._reverse_color)


class PhyreFirstFrames:
    """The first frame of every action in every task, from which a planner predicts what follows.

    Sample t * len(actions) + a is action a in task t; `read(indices)` gives `image` (n, 3, H, W) uint8 in channels-last
    memory. `source` names the world. Raises DataError, also for an invalid action, which has no frame.
    """

    num_frames = 1

    def __init__(
        self,
        tasks: Sequence[str],
        actions: Float[np.ndarray, "N 3"],
        *,
        size: tuple[int, int] = (128, 128),
        reverse_color: bool = True,
    ):
        self.tasks = list(tasks)
        self.actions = actions.astype(np.float64)
        self.image_size = size
        self.source = open_world().source
        self._reverse_color = reverse_color
        self._simulator = _Simulator(self.tasks)
        self._recordings = _recordings("first-frames", size, reverse_color)
        self.path = self._recordings.path

    def __len__(self) -> int:
        return len(self.tasks) * len(self.actions)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        pairs = [divmod(int(index), len(self.actions)) for index in indices]
        keys = [(self.tasks[task], self.actions[action].tobytes()) for task, action in pairs]
        frames = np.concatenate([recording.frames for recording in self._recordings.read(keys, self._render)])
        return {"image": torch.from_numpy(frames).permute(0, 3, 1, 2)}

    def _render(self, trial: Trial) -> Recording:
        codes = self._simulator.first_frame(trial)
        if codes is None:
            raise DataError(
                f"{self.source}: action {np.frombuffer(trial[1]).tolist()} is invalid in task {trial[0]}, so that it "
                "has no first frame. Leave out actions of status 0"
            )
        return recording_of(codes[None], False, self.image_size, self._reverse_color)


class _Simulator:
    """Runs trials in tasks of a list. The world's own simulator starts when it is first needed."""

    def __init__(self, tasks: Sequence[str]):
        self._tasks = list(tasks)

    @cached_property
    def _world(self) -> Any:
        return open_world().module.initialize_simulator(self._tasks, TIER)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {task: place for place, task in enumerate(self._tasks)}

    def run(self, trial: Trial, stride: int) -> Any:
        """The world's result, with `status` and `images`."""
        task, action = trial
        return self._world.simulate_action(
            self._places[task], np.frombuffer(action), need_images=True, need_featurized_objects=False, stride=stride
        )

    def first_frame(self, trial: Trial) -> UInt8[np.ndarray, "H W"] | None:
        if hasattr(self._world, "first_frame"):
            return self._world.first_frame(self._places[trial[0]], np.frombuffer(trial[1]))
        # PHYRE itself offers no shorter way: it runs to the end, but pictures only the first step.
        images = self.run(trial, MAX_STEPS).images
        return None if images is None else images[0]


def _recordings(what: str, size: tuple[int, int], reverse_color: bool) -> Recordings:
    colours = "reversed" if reverse_color else "plain"
    name = f"{open_world().version}-{what}-{size[0]}x{size[1]}-{colours}.sqlite"
    return Recordings(cache_folder() / name, size)
