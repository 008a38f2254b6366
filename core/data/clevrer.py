"""CLEVRER on disk (Yi et al. 2020), as http://clevrer.csail.mit.edu distributes it.

`videos/<split>/video_AAAAA-BBBBB/video_NNNNN.mp4`, 128 frames of 480x320, or a folder `video_NNNNN/%06d.jpg` beside it;
`annotations/<split>/annotation_AAAAA-BBBBB/annotation_NNNNN.json` (not for the test split) say when objects are in
view; `derender_proposals/proposal_NNNNN.json` hold masks that a segmentation network found.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from core.data.clip_reader import ClipReader
from core.data.clips import block_starts, enter_times, every_start, first_start, starts_without_entrance
from core.data.errors import DataError
from core.data.run_length import decode_run_lengths
from core.data.video import decoded_once, folder_or_mp4, resize_labels

SPLITS = ("train", "val", "test")
SOURCE = (
    "http://clevrer.csail.mit.edu, or make a synthetic set: python tools/make_data.py clevrer --root ... --scenes 100"
)
BROKEN_VIDEO = {"val": 10800}
"""Video that no published model has seen: its annotation is broken."""
NOT_THERE = -1


class Clevrer(ClipReader):
    """Clips of one split: every start in training, blocks of starts else, or (`num_frames` None) whole videos.

    `read(indices)` gives `video` and, with `masks`, `mask` (n, T, H, W) uint8 of the proposals, 0 = background;
    `bbox` (n, T, K, 4) float32 left, top, right, bottom pixel of each, inclusive; `visible` (n, T, K) bool. Masks are
    numbered anew in every frame; where they overlap the first one wins. Boxes are those of whole masks, the ones that
    vanish in the resize left out and the others moved up; K is `max_num_objects` + 1.

    `filter_enter` leaves out clips during whose part after the first `warmup_len` frames an object enters.

    Colours are red, green, blue by default, as they are for every other data set, so that models and data sets mix.
    `as_original` gives blue, green, red: the original read CLEVRER through OpenCV and never converted, and the
    published weights and slots expect that. Set it with imported weights only.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        num_frames: int | None = 6,
        frame_offset: int = 1,
        *,
        video_len: int = 128,
        size: tuple[int, int] = (64, 64),
        masks: bool = False,
        max_num_objects: int = 6,
        filter_enter: bool = False,
        warmup_len: int = 6,
        as_original: bool = False,
    ):
        if split not in SPLITS:
            raise ValueError(f"CLEVRER split {split!r} is not one of {', '.join(SPLITS)}")
        self.root = Path(root)
        if masks and not (self.root / "derender_proposals").is_dir():
            raise DataError(
                f"{self.root / 'derender_proposals'}: no such folder, but masks are asked for. Read without masks, or "
                f"unpack the proposals of {SOURCE}"
            )
        self.masks = masks
        self.max_num_boxes = max_num_objects + 1
        self.as_original = as_original
        videos = _find_videos(self.root, split)
        count = len(videos)
        if num_frames is None:
            num_frames = len(range(0, video_len, frame_offset))
            clips = first_start(count)
        elif filter_enter:
            entrances = _entrances(self.root, split, videos, video_len)
            clips = starts_without_entrance(
                entrances, video_len, num_frames, frame_offset, warmup_len, is_training=split == "train"
            )
            if count and not len(clips) and (num_frames - 1) * frame_offset < video_len:
                raise DataError(
                    f"{self.root / 'annotations' / split}: in each of the {count} videos an object enters during every "
                    f"clip of {num_frames} frames. Use shorter clips or more videos, or set filter_enter=False"
                )
        elif split == "train":
            clips = every_start(count, video_len, num_frames, frame_offset)
        else:
            clips = block_starts(count, video_len, num_frames, frame_offset)
        names = [f"{video.name}.mp4" for video in videos]
        sources = [folder_or_mp4(video.with_suffix(".mp4")) for video in videos]
        stems = [f"{number:06d}" for number in range(video_len)]
        path = self.root / "videos" / split
        super().__init__(path, names, sources, stems, clips, num_frames, frame_offset, size)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        batch = super().read(indices)
        if self.as_original:
            batch["video"] = batch["video"].flip(2)
        if self.masks:
            rows = self._cut(self._proposals, indices)
            pixels = self.image_size[0] * self.image_size[1]
            labels, boxes = rows[..., :pixels], np.ascontiguousarray(rows[..., pixels:]).view(np.int16)
            boxes = boxes.reshape(*rows.shape[:2], self.max_num_boxes, 4)
            batch["mask"] = torch.from_numpy(labels.reshape(*rows.shape[:2], *self.image_size))
            batch["visible"] = torch.from_numpy(boxes[..., 0] != NOT_THERE)
            batch["bbox"] = torch.from_numpy(np.maximum(boxes, 0).astype(np.float32))
        return batch

    @cached_property
    def _proposals(self) -> np.ndarray:
        """[V, L, H * W + 8 K]: label maps, then boxes as pairs of bytes."""
        height, width = self.image_size
        return decoded_once(
            self.root / "derender_proposals",
            f"{self.path.name}-masks-{height}x{width}",
            [self.root / "derender_proposals" / f"proposal_{name[6:11]}.json" for name in self.names],
            (len(self.stems), height * width + 8 * self.max_num_boxes),
            partial(
                _read_proposals,
                video_len=len(self.stems),
                size=self.image_size,
                num_boxes=self.max_num_boxes,
            ),
        )


def _find_videos(root: Path, split: str) -> list[Path]:
    """Paths of all videos of a split without `.mp4`, in the order of their numbers, which must have no gaps."""
    path = root / "videos" / split
    found = {}
    for entry in sorted(path.glob("video_*/video_*")):
        if match := re.fullmatch(r"video_(\d{5})(\.mp4)?", entry.name):
            found[int(match.group(1))] = entry.with_suffix("")
    if not found:
        raise DataError(f"{path}: no video_AAAAA-BBBBB/video_NNNNN.mp4 in it. Unpack the videos of {SOURCE}")
    missing = sorted(set(range(min(found), max(found) + 1)) - set(found) - {BROKEN_VIDEO.get(split)})
    if missing:
        raise DataError(
            f"{path}: video_{missing[0]:05d}.mp4 is missing ({len(missing)} in all from video_{min(found):05d} to "
            f"video_{max(found):05d}). The download is incomplete: unpack it again"
        )
    found.pop(BROKEN_VIDEO.get(split), None)
    return [found[number] for number in sorted(found)]


def _entrances(root: Path, split: str, videos: Sequence[Path], video_len: int) -> list[Int64[np.ndarray, "_"]]:
    """`enter_times` of each video, from the annotations."""
    path = root / "annotations" / split
    if not path.is_dir():
        raise DataError(
            f"{path}: no such folder, but filter_enter needs to know when objects enter. Set filter_enter=False, or "
            f"unpack the annotations (there are none of the test split) of {SOURCE}"
        )
    files = [
        path / video.parent.name.replace("video", "annotation") / f"{video.name.replace('video', 'annotation')}.json"
        for video in videos
    ]
    enters = decoded_once(path, "enters", files, (video_len, 1), partial(_read_entrances, video_len=video_len))
    return [np.flatnonzero(video).astype(np.int64) for video in enters[..., 0]]


def _read_entrances(path: Path, video_len: int) -> UInt8[np.ndarray, "T 1"]:
    """1 at each frame at which an object enters."""
    frames = _read_frames(path, "motion_trajectory", video_len)
    try:
        inside = np.array([[item["inside_camera_view"] for item in frame["objects"]] for frame in frames], bool)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: no inside_camera_view of every object in every frame ({error!r})") from error
    enters = np.zeros((video_len, 1), np.uint8)
    enters[enter_times(inside)] = 1
    return enters


def _read_proposals(path: Path, video_len: int, size: tuple[int, int], num_boxes: int) -> UInt8[np.ndarray, "T N"]:
    """Label map and boxes of every frame, as one row of bytes each."""
    rows = []
    for number, frame in enumerate(_read_frames(path, "frames", video_len)):
        try:
            objects = frame["objects"]
            masks = [decode_run_lengths(item["mask"]["counts"], tuple(item["mask"]["size"])) for item in objects]
            resized = resize_labels(np.array(masks, np.uint8), size) if masks else np.zeros((0, *size), np.uint8)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: the masks of frame {number} are not as expected ({error!r})") from error
        boxes = mask_boxes(resized != 0)
        if len(boxes) > num_boxes:
            raise DataError(
                f"{path}: frame {number} has {len(boxes)} objects, expected at most {num_boxes}. Raise max_num_objects"
            )
        padded = np.full((num_boxes, 4), NOT_THERE, np.int16)
        padded[: len(boxes)] = boxes
        rows.append(np.concatenate((label_map(resized != 0).ravel(), padded.view(np.uint8).ravel())))
    return np.stack(rows)


def label_map(masks: Bool[np.ndarray, "K H W"]) -> UInt8[np.ndarray, "H W"]:
    """1 + the first mask that covers a pixel, 0 where none does."""
    background = np.ones((1, *masks.shape[1:]), bool)
    background[0] &= ~masks.any(axis=0)
    return np.concatenate((background, masks)).argmax(axis=0).astype(np.uint8)


def mask_boxes(masks: Bool[np.ndarray, "K H W"]) -> Int64[np.ndarray, "B 4"]:
    """Left, top, right, bottom pixel, inclusive, of every mask that is not empty."""
    boxes = []
    for mask in masks[masks.any(axis=(1, 2))]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((columns[0], rows[0], columns[-1], rows[-1]))
    return np.array(boxes, np.int64).reshape(-1, 4)


def _read_frames(path: Path, key: str, video_len: int) -> list[Any]:
    """The first `video_len` entries of list `key` of a JSON file."""
    try:
        frames = list(json.loads(path.read_text())[key])
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Unpack again the data of {SOURCE}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a readable JSON file with a list {key!r} ({error!r}). It is damaged: unpack it again"
        ) from error
    if len(frames) < video_len:
        raise DataError(f"{path}: {key} holds {len(frames)} frames, expected {video_len}. Unpack it again")
    return frames[:video_len]
