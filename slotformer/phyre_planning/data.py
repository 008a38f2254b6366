"""Roll-outs of PHYRE's trials with their labels, from the keys of a configuration."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from core.data.errors import DataError
from core.data.loader import BatchSource
from core.data.phyre_trials import choose_trials
from core.data.slots import SlotFolder, slots_path
from core.provenance import FILE, read_provenance
from slotformer.base_slots.data import open_data
from slotformer.framework.params import BaseParams, ParamsError

DATASET = "phyre_rollout_slots"
SCRIPT = "slotformer/video_prediction/rollout_phyre_slots.py"
TRIAL_KEYS = ("phyre_protocal", "phyre_fold", "data_ratio", "pos_ratio", "num_actions", "num_tasks")
"""They decide which trial a number means."""


class RolloutSlots:
    """The slots of the frames `frames` of trials, and whether the trials are solved. Neither simulates nor draws.

    `read(indices)` gives `slots` (n, S, K, D) float32 and `label` (n,) int64, 1 if solved; S = len(frames), `size` is
    (K, D). Raises DataError.
    """

    def __init__(self, slots: SlotFolder, labels: Int64[np.ndarray, "M"], frames: Sequence[int], size: tuple[int, int]):
        self.slots = slots
        self.labels = labels
        self.frames = list(frames)
        self.size = size
        self.path = slots.path
        lengths = slots.lengths
        if lengths.min() <= max(frames):
            raise DataError(
                f"{slots.file(int(lengths.argmin()))}: {lengths.min()} frames, but sel_slots are {self.frames}. Make "
                f"longer roll-outs: python {SCRIPT} --vid_len {max(frames) + 1} ..."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The trials of `indices`, in that order."""
        slots = np.empty((len(indices), len(self.frames), *self.size), np.float32)
        for row, trial in enumerate(indices.tolist()):
            found = self.slots.read(trial, self.frames)
            if found.shape[1:] != self.size:
                raise DataError(
                    f"{self.slots.file(trial)}: {found.shape[1]} slots of size {found.shape[2]}, expected "
                    f"{self.size[0]} of size {self.size[1]}. Are they of another model? Name their folder with --set "
                    "slot_root=DIR/{}_slots"
                )
            slots[row] = found
        return {"slots": torch.from_numpy(slots), "label": torch.from_numpy(self.labels[indices])}


def build_dataset(params: BaseParams) -> tuple[RolloutSlots, RolloutSlots]:
    """The trials for training and for validation. Raises ParamsError, DataError."""
    return open_slots(params, "train"), open_slots(params, "val")


def open_slots(params: BaseParams, split: str) -> RolloutSlots:
    """The trials of a split, whose roll-outs are in the folder `slot_root`, where {} is the split.

    Raises ParamsError, DataError.
    """
    if params.dataset != DATASET:
        raise ParamsError(f"dataset {params.dataset!r} is not {DATASET}")
    _, (_, labels) = choose_trials(
        split,
        params.phyre_protocal,
        params.phyre_fold,
        params.data_ratio,
        params.pos_ratio,
        params.get("num_actions"),
        params.get("num_tasks"),
    )
    path = slots_path(params.slot_root.format(split))
    if not path.is_dir():
        raise DataError(
            f"{path}: no such folder, nor one of that name in models/ or models/epoch/ beside it. Roll out the slots "
            f"first: python {SCRIPT} ...; or name their folder with --set slot_root=DIR/{{}}_slots"
        )
    slots = SlotFolder(path, len(labels), SCRIPT)
    _check_trials(slots, params)
    options = params.readout_dict
    return RolloutSlots(
        slots, labels.astype(np.int64), options["sel_slots"], (options["num_slots"], options["slot_size"])
    )


def _check_trials(slots: SlotFolder, params: BaseParams) -> None:
    """Raises DataError if the folder says that its roll-outs are of other trials than those of the configuration."""
    made_by = read_provenance(slots.path / FILE)
    if made_by is None:
        return
    theirs, ours = made_by.get("config", {}), params.to_dict()
    if differing := [key for key in TRIAL_KEYS if theirs.get(key) != ours.get(key)]:
        found, expected = (", ".join(f"{key} {of.get(key)}" for key in differing) for of in (theirs, ours))
        raise DataError(
            f"{slots.path}: roll-outs of other trials: {found}; the configuration says {expected}. Name another folder "
            "with --set slot_root=DIR/{}_slots, or roll out again"
        )


def open_videos(params: BaseParams) -> BatchSource:
    """The validation's trials as whole videos, simulated when they are read."""
    plain: Any = copy(params)
    plain.dataset = "phyre"
    return open_data(plain, "val", None)
