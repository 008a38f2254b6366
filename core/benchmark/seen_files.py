"""Pictures and videos of one's own to send through a model: a file, or a folder of files or of frame folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.data.errors import DataError
from core.data.folder import count_frames, read_upright
from core.data.folder_layout import EXPECTED, PICTURES, VIDEOS, FolderKind, frames_of, samples_of
from core.data.video import mp4_frames

FPS = 10.0
"""Of videos that lie as folders of frames."""

Picture = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class SeenFile:
    """A picture, a video file or a folder of frames; `name` is its path below the input, without an ending."""

    path: Path
    name: str
    kind: FolderKind
    num_frames: int
    fps: float

    def frames(self) -> Iterator[Picture]:
        """RGB; of a picture the one. Raises DataError where a file is damaged."""
        if self.kind == "images":
            yield read_upright(self.path)
        elif self.path.is_dir():
            yield from self._frames_of_folder()
        else:
            with closing(mp4_frames(self.path)) as frames:
                yield from islice(frames, self.num_frames)

    def _frames_of_folder(self) -> Iterator[Picture]:
        shape = None
        for path in frames_of(self.path)[: self.num_frames]:
            picture = read_upright(path)
            shape = shape or picture.shape
            if picture.shape != shape:
                found, expected = (f"{width}x{height}" for height, width, _ in (picture.shape, shape))
                raise DataError(
                    f"{path}: is {found}, but the frames before it are {expected}. Frames of one video have one size: "
                    "save it again"
                )
            yield picture


def find_files(path: Path, num_frames: int | None = None) -> list[SeenFile]:
    """What is to be seen at `path`; folders are as core/data/folder_layout.py says, all of their splits.

    num_frames: the first frames of every video; all unless given. Raises DataError.
    """
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix not in (*PICTURES, *VIDEOS):
            raise DataError(f"{path}: neither a picture nor a video by its ending. {EXPECTED}")
        return [_seen(path, path.stem, "images" if suffix in PICTURES else "videos", num_frames)]
    kind, samples = samples_of(path, "all")
    names = [
        sample.relative_to(path) if sample.is_dir() else sample.relative_to(path).with_suffix("") for sample in samples
    ]
    return [_seen(sample, name.as_posix(), kind, num_frames) for sample, name in zip(samples, names)]


def _seen(path: Path, name: str, kind: FolderKind, num_frames: int | None) -> SeenFile:
    if kind == "images":
        return SeenFile(path, name, kind, 1, FPS)
    is_folder = path.is_dir()
    length = len(frames_of(path)) if is_folder else count_frames(path)
    return SeenFile(path, name, kind, min(length, num_frames or length), FPS if is_folder else _fps(path))


def _fps(path: Path) -> float:
    with av.open(str(path)) as container:
        return float(container.streams.video[0].average_rate or FPS)


def as_batch(pictures: list[Picture]) -> Float[Tensor, "B 3 H W"]:
    """Pictures of one size in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(255)
