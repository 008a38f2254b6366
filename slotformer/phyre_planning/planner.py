"""Planning by imagination (Wu et al. 2023, section 4.4): which of many actions is most likely to solve a task of PHYRE.

SAVi sees the first frame of each action, SlotFormer predicts what follows, the classifier tells whether that is a
success. Shapes: B actions, T frames, N slots, D slot size.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn

from core.data.phyre import PhyreFirstFrames
from core.data.phyre_trials import ball_tasks, cached_statuses, open_world
from core.nn.noise import Noise
from slotformer.base_slots.models.savi import StoSAVi
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.phyre_planning.models.readout import PHYREReadout
from slotformer.video_prediction.models.single_step import SingleStepSlotFormer

MOST_ACTIONS = 10_000
"""Of PHYRE's list, that are tried in thought in each task; the stand-in's list is shorter."""
SHARED_KEYS = ("phyre_protocal", "phyre_fold", "reverse_color", "fps", "num_slots", "slot_size")
"""The three models must agree on them: with another fold, the tasks to be solved would be those of the training."""


def planned_sequence(first: Float[Tensor, "B 1 N D"], later: Float[Tensor, "B K N D"]) -> Float[Tensor, "B T N D"]:
    """What the classifier has been trained on: the slots of the first frame and those predicted after it."""
    return torch.cat([first, later], dim=1)


def original_sequence(first: Float[Tensor, "B 1 N D"], later: Float[Tensor, "B K N D"]) -> Float[Tensor, "B T N D"]:
    """What the original's planner gives the classifier in its place: as many frames of zeros, and the predictions."""
    return torch.cat([torch.zeros_like(later), later], dim=1)


class Planner(nn.Module):
    """Trained models that together tell how an action ends.

    SlotFormer predicts up to the last frame that the classifier looks at. `as_original` puts the frames together as the
    original does, by mistake: the classifier then finds zeros where the first frame should be, and predictions of
    earlier frames than it was trained on.
    """

    def __init__(
        self, savi: StoSAVi, slotformer: SingleStepSlotFormer, classifier: PHYREReadout, as_original: bool = False
    ):
        super().__init__()
        self.savi = savi
        self.slotformer = slotformer
        self.classifier = classifier
        self.sequence = original_sequence if as_original else planned_sequence

    def answer(self, image: Float[Tensor, "B 3 H W"], noise: Noise | None = None) -> Float[Tensor, "B"]:
        """The logit of success of each action, given its first frame in [0, 1]; `noise` is what SAVi may draw."""
        first = self.savi.extract({"video": image[:, None]}, noise).float()
        later = self.slotformer.rollout(first, max(self.classifier.sel_slots))
        return self.classifier.answer(self.classifier.select(self.sequence(first, later)))


@dataclass(frozen=True, eq=False)
class Candidates:
    """Actions to choose from in each task, and what becomes of them. Action a in task t has number t * A + a.

    Statuses: 1 solved, -1 not solved, 0 invalid.
    """

    tasks: list[str]
    actions: Float[np.ndarray, "A 3"]
    statuses: Integer[np.ndarray, "tasks A"]

    def valid(self, numbers: range) -> Int64[np.ndarray, "_"]:
        """Those of `numbers` that are actions which can be taken."""
        return numbers.start + np.flatnonzero(self.statuses.flat[numbers.start : numbers.stop])

    def first_frames(self, params: BaseParams) -> PhyreFirstFrames:
        """What they look like, by number."""
        size = tuple(params.resolution)
        return PhyreFirstFrames(self.tasks, self.actions, size=size, reverse_color=params.reverse_color)


def open_candidates(params: BaseParams) -> Candidates:
    """The first actions of the world's list, in all test tasks of a fold.

    They are `MOST_ACTIONS`, or `num_actions` if the configuration says so; `num_tasks` is how many tasks are tested.
    """
    tasks = ball_tasks(params.phyre_protocal, params.phyre_fold, "val", params.get("num_tasks"))
    most = MOST_ACTIONS if open_world().is_phyre else None
    return Candidates(tasks, *cached_statuses(tasks, params.get("num_actions") or most))


def part_of(count: int, split: int, total_split: int) -> range:
    """Part `split` of the numbers below `count`, all if it is -1; the last part also has what is left over."""
    if split < 0:
        return range(count)
    size = count // total_split
    return range(split * size, count if split == total_split - 1 else (split + 1) * size)


def check_together(**configurations: BaseParams) -> None:
    """Raises ParamsError unless the configurations, by the flags that name them, are of models that belong together."""
    found = {flag: _shared(params) for flag, params in configurations.items()}
    (flag, ours), *others = found.items()
    for other, theirs in others:
        for key in SHARED_KEYS:
            if ours[key] != theirs[key]:
                raise ParamsError(
                    f"{key} is {ours[key]} in --{flag}, but {theirs[key]} in --{other}: these models were not trained "
                    "for each other"
                )


def _shared(params: BaseParams) -> dict[str, Any]:
    slots = params.get("readout_dict") or params.slot_dict
    return {key: slots.get(key, params.get(key)) for key in SHARED_KEYS}
