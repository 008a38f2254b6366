"""The data sets of models of dynamics, from the keys of a configuration: slots, and the frames that they are of."""

from copy import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from core.data.clip_reader import ClipReader
from core.data.errors import DataError
from core.data.loader import BatchSource
from core.data.phyre import Phyre
from core.data.phyre_recordings import fixed_length
from core.data.slots import SlotFile, SlotFolder, slots_path
from core.spelling import nearest
from slotformer.base_slots.data import open_data
from slotformer.framework.params import BaseParams, ParamsError

DATASETS = {
    "obj3d_slots": "obj3d",
    "clevrer_slots": "clevrer",
    "phyre_slots": "phyre",
    "physion_slots_training": "physion_training",
    "physion_slots_readout": "physion_readout",
    "physion_slots_test": "physion_test",
    "folder_slots": "folder",
}
"""What each is called without slots."""


class SlotClips:
    """Clips of a data set and, in `slots` (n, T, K, D) float32, the slots of the same frames.

    They come from the file `slots`, which must have `size` = (K, D) and all videos of its `split`. Without `pictures`
    only slots are given, and no frame is decoded. Raises DataError.
    """

    def __init__(self, clips: ClipReader, slots: SlotFile, split: str, size: tuple[int, int], pictures: bool):
        self.clips = clips
        self.slots = slots
        self.split = split
        self.pictures = pictures
        self.path = slots.path
        self.num_frames = clips.num_frames
        slots.check(split, clips.names)
        needed = int(clips.clips[:, 1].max()) + (clips.num_frames - 1) * clips.frame_offset + 1
        for name in clips.names:
            num_frames, *found = slots.shape(split, name)
            if tuple(found) != size or num_frames < needed:
                raise DataError(
                    f"{slots.path}: {split}/{name} holds {num_frames} frames of {found[0]} slots of size {found[1]}, "
                    f"expected at least {needed} frames of {size[0]} slots of size {size[1]}. Are they of another "
                    "model or data set? Name their file with --set slots_root=FILE"
                )

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        batch = self.clips.read(indices) if self.pictures else {}
        clips = self.clips.clips[indices]
        batch["slots"] = torch.from_numpy(np.stack([self._read(video, start) for video, start in clips.tolist()]))
        return batch

    def _read(self, video: int, start: int) -> Float32[np.ndarray, "T K D"]:
        offset = self.clips.frame_offset
        frames = slice(start, start + (self.clips.num_frames - 1) * offset + 1, offset)
        return self.slots.read(self.split, self.clips.names[video], frames)


class PhyreSlotClips:
    """The first `num_frames` frames of PHYRE's trials as `slots` (n, T, K, D) float32, the last of them repeated.

    `vid_len` (n,) int64 is how many frames of each clip a trial has; the others repeat its last. With `pictures` the
    frames of `trials`, whole videos of `num_frames` frames, are given as `video`, too. With `history_len` there is
    `mean_frames` (n,) float32, how many frames a trial has after those, on the average over all trials: with it the
    mean of a loss over all samples does not depend on their batches. Raises DataError.
    """

    def __init__(
        self, trials: Phyre, slots: SlotFolder, size: tuple[int, int], pictures: bool, history_len: int | None = None
    ):
        self.trials = trials
        self.slots = slots
        self.size = size
        self.pictures = pictures
        self.path = slots.path
        self.lengths: Int64[np.ndarray, " M"] = np.minimum(slots.lengths, trials.num_frames)
        self.mean_frames: float | None = None
        if history_len is not None:
            counted = int(np.maximum(self.lengths - history_len, 0).sum())
            self.mean_frames = max(1, counted) / max(1, len(self.lengths))

    def __len__(self) -> int:
        return len(self.trials)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        batch = {"video": self.trials.read(indices)["video"]} if self.pictures else {}
        batch["slots"] = torch.from_numpy(np.stack([self._read(int(trial)) for trial in indices]))
        batch["vid_len"] = torch.from_numpy(self.lengths[indices])
        if self.mean_frames is not None:
            batch["mean_frames"] = torch.full((len(indices),), self.mean_frames)
        return batch

    def _read(self, trial: int) -> Float32[np.ndarray, "T K D"]:
        slots = self.slots.read(trial)
        if slots.shape[1:] != self.size:
            raise DataError(
                f"{self.slots.file(trial)}: {slots.shape[1]} slots of size {slots.shape[2]}, expected {self.size[0]} "
                f"of size {self.size[1]}. Are they of another model? Name their folder with --set slots_root=DIR"
            )
        return fixed_length(slots, self.trials.num_frames)


def build_dataset(params: BaseParams) -> tuple[BatchSource, BatchSource]:
    """Clips of `n_sample_frames` for training and for validation, with frames where the model compares them.

    Raises ParamsError where the image loss is asked for, but not the images.
    """
    trained = params.loss_dict["use_img_recon_loss"]
    has_pictures = params.get("load_img", True)
    if trained and not has_pictures:
        raise ParamsError("loss_dict.use_img_recon_loss needs images, but load_img is False")
    frames = params.n_sample_frames
    shown = trained or (has_pictures and params.model != "STEVESlotFormer")
    return open_slots(params, "train", frames, trained), open_slots(params, "val", frames, shown)


def open_slots(params: BaseParams, split: str, num_frames: int | None, pictures: bool) -> BatchSource:
    """Clips of a split, or (`num_frames` None) whole videos. Raises ParamsError for a data set that is none.

    `slots_root` is a file of slots, .h5 or .pkl, which may lie beside the weight below its folder (`slots_path`); for
    PHYRE a folder for each split, {} in its name being the split.
    """
    name = params.dataset
    if name not in DATASETS:
        raise ParamsError(f"dataset {name!r} is not one of {', '.join(DATASETS)}{nearest(name, DATASETS)}")
    plain = copy(params)
    plain.dataset = DATASETS[name]
    size = (params.slot_dict["num_slots"], params.slot_dict["slot_size"])
    if name == "phyre_slots":
        plain.video_len = num_frames or params.video_len
        trials: Any = open_data(plain, split, None)
        slots = SlotFolder(slots_path(params.slots_root.format(split)), len(trials))
        history_len = None if split == "train" else params.rollout_dict["history_len"]
        return PhyreSlotClips(trials, slots, size, pictures, history_len)
    masks = pictures and split != "train" and num_frames is not None
    clips: Any = open_data(plain, split, num_frames, masks, pictures)
    return SlotClips(clips, SlotFile(slots_path(params.slots_root)), split, size, pictures)
