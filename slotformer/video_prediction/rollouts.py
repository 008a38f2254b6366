"""Roll-outs of the slots of whole videos, which later tasks read in place of slots of frames."""

import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.data.errors import DataError
from core.data.slots import SlotFile
from core.provenance import FILE, file_hash, read_provenance

if TYPE_CHECKING:
    from slotformer.framework.extraction import Trained
    from slotformer.framework.params import BaseParams

VIDEOS_AT_A_TIME = {"cpu": 8, "cuda": 256}

Rollout = Callable[[Float[Tensor, "B P N D"], int], Float[Tensor, "B K N D"]]


def interleaved_rollout(
    rollout: Rollout, slots: Float[Tensor, "B T N D"], history_len: int, frame_offset: int, num_frames: int
) -> Float[Tensor, "B F N D"]:
    """`slots`, and predictions up to frame number `num_frames`, by a model of every `frame_offset`-th frame.

    It sees `history_len` frames that lie `frame_offset` apart, and predicts those that follow at the same distance, for
    each of the `frame_offset` phases by itself; their predictions take turns. All phases go through the model at once.
    Raises ValueError if T is too short.
    """
    batch_size, num_observed = slots.shape[:2]
    seen = history_len * frame_offset
    if num_observed < seen:
        raise ValueError(
            f"{num_observed} observed frames, but history_len={history_len} and frame_offset={frame_offset} need {seen}"
        )
    num_predicted = max(num_frames - num_observed, 0)
    windows = slots[:, num_observed - seen :].unflatten(1, (history_len, frame_offset)).transpose(1, 2).flatten(0, 1)
    predicted = rollout(windows, -(-num_predicted // frame_offset))
    predicted = predicted.unflatten(0, (batch_size, frame_offset)).transpose(1, 2).flatten(1, 2)
    return torch.cat([slots, predicted[:, :num_predicted]], dim=1)


class ObservedSlots:
    """The first `num_observed` frames of the slots of all videos of a split.

    The model makes `num_predicted` frames of each; `size` is (K, D). Raises DataError.
    """

    def __init__(self, slots: SlotFile, split: str, num_observed: int, num_predicted: int, size: tuple[int, int]):
        self.slots = slots
        self.split = split
        self.num_observed = num_observed
        self.num_frames = num_predicted
        """Of each video, that the model makes: what its speed is counted in."""
        self.names = slots.names(split)
        for name in self.names:
            length, *found = slots.shape(split, name)
            if length < num_observed or tuple(found) != size:
                raise DataError(
                    f"{slots.path}: {split}/{name} holds {length} frames of {found[0]} slots of size {found[1]}, "
                    f"expected at least {num_observed} frames of {size[0]} slots of size {size[1]}. Are they of "
                    "another model or data set? Name their file with --set slots_root=FILE, or see --num_observed"
                )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """`slots` (n, T, K, D) of the videos of `indices`, in that order."""
        videos = [self.slots.read(self.split, self.names[index], slice(self.num_observed)) for index in indices]
        return {"slots": torch.from_numpy(np.stack(videos))}


class FirstSlots:
    """The slots of the first frame of each of PHYRE's trials; the model makes `num_frames` more. Raises DataError."""

    def __init__(self, params: "BaseParams", split: str, num_frames: int):
        from slotformer.video_prediction.data import open_slots

        whole = open_slots(params, split, None, pictures=False)
        self.slots, self.num_frames = whole.slots, num_frames
        self.size = (params.slot_dict["num_slots"], params.slot_dict["slot_size"])
        self.origin = _hash(read_provenance(self.slots.path / FILE))
        if missing := self.slots.missing():
            raise DataError(
                f"{self.slots.file(missing[0])}: no such file ({len(missing)} of {len(self.slots)} are missing). Start "
                "extract_phyre_slots.py again: it makes what is missing"
            )

    def __len__(self) -> int:
        return len(self.slots)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """`slots` (n, 1, K, D) of the trials of `indices`, in that order."""
        first = []
        for trial in indices.tolist():
            slots = self.slots.read(trial)[:1]
            if slots.shape != (1, *self.size):
                raise DataError(
                    f"{self.slots.file(trial)}: {slots.shape[1]} slots of size {slots.shape[2]}, expected "
                    f"{self.size[0]} of size {self.size[1]}. Are they of another model? Name their folder with --set "
                    "slots_root=DIR"
                )
            first.append(slots)
        return {"slots": torch.from_numpy(np.stack(first))}


def origin_of(slots: SlotFile) -> str:
    """A hash that tells files of slots apart: of what made them, or of the file if that is not known."""
    return _hash(slots.provenance) if slots.provenance else file_hash(slots.path)


def _hash(values: Mapping[str, Any] | None) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_rollouts(
    arguments: Namespace, words: Sequence[str], task: ModuleType, params: "BaseParams", slots_path: Path, link: str
) -> int:
    """Roll out all videos of a file of slots to --save_path, linked as `link` beside the weight; the exit code.

    The model is one of `task`. Reads --num_observed, --num_frames and --bs, too.
    """
    from core.data.slot_writer import SlotWriter
    from core.training.launch import end_processes
    from core.training.signals import STOPPED_EXIT_CODE
    from slotformer.base_slots.extract_slots import other_format
    from slotformer.framework.extraction import launched, link_beside, note_replaced, open_trained

    check_lengths(arguments, params)
    if (code := launched(arguments, params, words)) is not None:
        return code
    slots = SlotFile(slots_path)
    size = (params.slot_dict["num_slots"], params.slot_dict["slot_size"])
    num_observed, num_frames = arguments.num_observed, arguments.num_frames
    sources = {
        split: ObservedSlots(slots, split, num_observed, num_frames - num_observed, size) for split in slots.splits
    }
    decisive = {"slots": origin_of(slots), "num_observed": num_observed, "num_frames": num_frames}
    trained = open_trained(arguments, params, task, decisive)
    path, names = arguments.save_path, {split: source.names for split, source in sources.items()}
    writer = SlotWriter(path, trained.provenance)
    is_done = writer.is_done(names)
    if not is_done:
        if trained.is_main:
            note_replaced(path, trained.provenance)
            writer.begin()
            if other_format(path).exists():
                print(f"note: {other_format(path)} stays beside {path.name}", file=sys.stderr)
        trained.accelerator.wait_for_everyone()
        missing = {
            split: [index for index, name in enumerate(source.names) if not writer.has(split, name)]
            for split, source in sources.items()
        }
        trained.accelerator.wait_for_everyone()  # all processes share out the same list
        batch_size = arguments.bs or VIDEOS_AT_A_TIME[trained.accelerator.device.type]
        for split, source in sources.items():
            if not _roll_out_split(trained, writer.add, source, missing[split], params.frame_offset, batch_size):
                return STOPPED_EXIT_CODE
        trained.report_speed()
    end_processes(trained.accelerator)
    if trained.is_main:
        if is_done:
            writer.remove_parts()
        else:
            writer.finish(names)
        counts = ", ".join(f"{split}: {len(found)}/{len(found)}" for split, found in names.items())
        print(f"{counts}: {path}{' was there already' if is_done else ''}")
        link = f"{link}{path.suffix}"
        link_beside(arguments.weight, link, path, instead_of=other_format(Path(link)).name)
    return 0


def check_lengths(arguments: Namespace, params: "BaseParams") -> None:
    """Raises ParamsError unless there is enough to see, and something to predict."""
    from slotformer.framework.params import ParamsError

    seen = params.rollout_dict["history_len"] * params.frame_offset
    if arguments.num_observed < seen:
        raise ParamsError(
            f"--num_observed {arguments.num_observed}: rollout_dict.history_len={params.rollout_dict['history_len']} "
            f"and frame_offset={params.frame_offset} need {seen} frames"
        )
    if arguments.num_frames <= arguments.num_observed:
        raise ParamsError(
            f"--num_frames {arguments.num_frames}: expected more than the {arguments.num_observed} observed ones"
        )


def _roll_out_split(
    trained: "Trained",
    add: Callable[[str, str, np.ndarray], None],
    source: ObservedSlots,
    videos: Sequence[int],
    frame_offset: int,
    batch_size: int,
) -> bool:
    """Add roll-outs of these videos; False if a signal stopped it."""
    model, num_frames = trained.model, source.num_observed + source.num_frames

    def use(batch: Mapping, indices: Sequence[int]) -> None:
        found = interleaved_rollout(model.rollout, batch["slots"], model.history_len, frame_offset, num_frames)
        for index, slots in zip(indices, found.float().cpu().numpy()):
            add(source.split, source.names[index], slots)

    return trained.go_through(source, videos, batch_size, use, f"roll-outs of {source.split}")
