"""Slots of Physion's videos with their labels, from the keys of a configuration."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.errors import DataError
from core.data.physion import LABELS, SPLITS, labelled_videos
from core.data.slots import SlotFile, find_slots, slots_path
from core.spelling import nearest
from slotformer.framework.params import BaseParams, ParamsError

PREFIX = "physion_slots_label_"
DATASETS = tuple(f"{PREFIX}{subset}" for subset in LABELS)
SCRIPT = "slotformer/video_prediction/rollout_physion_slots.py"


class LabelledSlots:
    """The first `video_len` frames of slots of the videos of a split that have a label.

    `read(indices)` gives `slots` (n, T, K, D) float32, `label` (n,) int64, 1 if the marked objects touch at any time,
    and `scenario` (n,) int64, its place in core.data.physion.SCENARIOS. The videos themselves need not be there.
    `size` is (K, D). `as_original` is explained at core.data.physion.Physion; `videos` tells the true scenarios.
    Raises DataError.
    """

    def __init__(
        self,
        root: str | Path,
        subset: str,
        split: str,
        slots: SlotFile,
        video_len: int,
        size: tuple[int, int],
        *,
        tasks: tuple[str, ...] = ("all",),
        as_original: bool = False,
    ):
        self.videos, self.labels, self.scenarios = labelled_videos(root, subset, split, tasks, as_original)
        self.slots = slots
        self.split = split
        self.path = slots.path
        self.num_frames = video_len
        self.size = size
        if not self.videos:
            raise DataError(f"{root}: no videos of {subset}/{split}. Give other tasks, or make more of them")
        slots.check(split, self.names)
        for name in self.names:
            length, *found = slots.shape(split, name)
            if length < video_len or tuple(found) != size:
                raise DataError(
                    f"{slots.path}: {split}/{name} holds {length} frames of {found[0]} slots of size {found[1]}, "
                    f"expected at least {video_len} frames of {size[0]} slots of size {size[1]}. Are they of another "
                    "model or data set? Name their file with --set slots_root=FILE"
                )

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def names(self) -> list[str]:
        return [video.name for video in self.videos]

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        slots = np.empty((len(indices), self.num_frames, *self.size), np.float32)
        for row, index in enumerate(indices):
            slots[row] = self.slots.read(self.split, self.videos[index].name, slice(self.num_frames))
        return {
            "slots": torch.from_numpy(slots),
            "label": torch.from_numpy(self.labels[indices]),
            "scenario": torch.from_numpy(self.scenarios[indices]),
        }


def build_dataset(params: BaseParams, script: str = SCRIPT) -> tuple[LabelledSlots, LabelledSlots]:
    """The videos for training and for validation, whose slots `script` makes. Raises ParamsError, DataError."""
    subset = subset_of(params)
    if "train" not in SPLITS[subset]:
        raise ParamsError(f"dataset {params.dataset!r} is for testing alone; {PREFIX}readout is to train on")
    return tuple(open_slots(params, subset, split, script=script) for split in ("train", "val"))


def subset_of(params: BaseParams) -> str:
    """The subset that the configuration names. Raises ParamsError for a data set without labels or slots."""
    if params.dataset not in DATASETS:
        near = nearest(params.dataset, DATASETS)
        raise ParamsError(f"dataset {params.dataset!r} is not one of {', '.join(DATASETS)}{near}")
    return params.dataset.removeprefix(PREFIX)


def open_slots(
    params: BaseParams,
    subset: str,
    split: str,
    as_original: bool = False,
    path: Path | None = None,
    script: str = SCRIPT,
) -> LabelledSlots:
    """A split of a subset, whose slots `script` has made: in `path`; None: in `slots_root`, or beside it.

    There another subset has the name of `slots_root` with its own in place of the one that is named, or else
    `<subset>_slots`. Raises ParamsError, DataError.
    """
    if params.frame_offset != 1:
        raise ParamsError(f"frame_offset is {params.frame_offset}; expected 1: the read-out sees every frame")
    if path is None:
        path = Path(params.slots_root)
        if subset != (named := subset_of(params)):
            stem = path.stem.replace(named, subset) if named in path.stem else f"{subset}_slots"
            path = path.with_name(f"{stem}{path.suffix}")
    try:
        path = find_slots(slots_path(path))
    except DataError as error:
        raise DataError(
            f"{path}: no such file, nor one of that name in models/ or models/epoch/ beside it. Roll out the slots "
            f"first: python {script} --subset {subset} ...; or name their file with --set slots_root=FILE"
        ) from error
    size = (params.readout_dict["num_slots"], params.readout_dict["slot_size"])
    tasks = tuple(params.get("tasks", ["all"]))
    return LabelledSlots(
        params.data_root, subset, split, SlotFile(path), params.video_len, size, tasks=tasks, as_original=as_original
    )
