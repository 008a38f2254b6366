"""What the readers of OBJ3D, CLEVRER, Physion and MOVi have in common: clips cut out of videos decoded once."""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.clips import Clips, cut_clips
from core.data.errors import DataError, MissingSplit
from core.data.video import decode_video, decoded_once


class ClipReader:
    """Clips of the videos of one data set split.

    Sample i is `num_frames` frames, `frame_offset` apart, of video `names[clips[i, 0]]` from frame `clips[i, 1]` on.
    `read(indices)` gives `video` (n, T, 3, H, W) uint8 in channels-last memory. All videos are decoded and resized once
    into the cache, when the first is read; raises DataError.

    `sources` are mp4 files or folders of pictures called `stems` in the order of the frames; `path` is the folder of
    the split, `size` height and width.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        sources: Sequence[Path],
        stems: Sequence[str],
        clips: Clips,
        num_frames: int,
        frame_offset: int,
        size: tuple[int, int],
    ):
        if not names:
            raise MissingSplit(f"{path}: no videos in this split. Give another, or make more of them")
        if not len(clips) or not num_frames:
            raise DataError(
                f"{path}: clips of {num_frames} frames, {frame_offset} apart, do not fit into videos of {len(stems)} "
                "frames. Lower n_sample_frames or frame_offset"
            )
        self.path = path
        self.names = list(names)
        self.sources = list(sources)
        self.stems = list(stems)
        self.clips = clips
        self.num_frames = num_frames
        self.frame_offset = frame_offset
        self.image_size = size

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        return {"video": torch.from_numpy(self._cut(self._videos, indices)).permute(0, 1, 4, 2, 3)}

    def _cut(self, videos: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return cut_clips(videos, self.clips[indices], self.num_frames, self.frame_offset)

    @cached_property
    def _videos(self) -> np.ndarray:
        """[V, L, H, W, 3] uint8."""
        return decoded_once(
            self.path,
            "video-" + "x".join(map(str, self.image_size)),
            self.sources,
            (len(self.stems), *self.image_size, 3),
            partial(decode_video, stems=self.stems, size=self.image_size),
            self.stems,
        )


def video_folders(path: Path) -> list[Path]:
    """The folders in `path`, sorted as strings: 0, 1, 10, 100, ..."""
    folders = (entry for entry in path.glob("*") if entry.is_dir() and not entry.name.startswith("."))
    return sorted(folders, key=lambda folder: folder.name)
