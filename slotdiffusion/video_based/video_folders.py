"""Folders of generated and of real videos: `<index>/<frame>.png`, as tools that compute the FVD want them."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from core.data.errors import DataError
from core.data.video import read_pictures
from core.files import replacing
from core.metrics.i3d import MIN_FRAMES, load_i3d
from core.metrics.pretrained import MissingWeightsError
from core.metrics.video import FeatureNetwork, FrechetVideoDistance
from core.provenance import Provenance
from core.viz.videos import encode_mp4

FPS = 8
DISTANCE_FRAMES = 16
"""From the beginning of each video, that the Frechet distance looks at."""
Video = UInt8[np.ndarray, "T H W 3"]


def free_to_write(folder: Path) -> Path:
    """`folder` again, which is made if missing. Raises DataError if files cannot be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or error}. Give another folder with --out") from error
    if not os.access(folder, os.W_OK):
        raise DataError(f"{folder}: results cannot be written there. Give another folder with --out")
    return folder


class VideoFolder:
    """The videos of one origin in `path`, which `<path>.json` tells; raises DataError where it holds those of another.

    The tools that read the folder find nothing but videos in it.
    """

    def __init__(self, path: Path):
        self.path = path

    def claim(self, provenance: Provenance) -> None:
        """By one process, before all."""
        description = self.path.with_name(f"{self.path.name}.json")
        self.path.mkdir(parents=True, exist_ok=True)
        if not any(self.path.iterdir()):
            description.unlink(missing_ok=True)  # of videos that were removed
        provenance.claim(self.path, description)

    def has(self, index: int) -> bool:
        return (self.path / str(index)).is_dir()

    def write(self, index: int, video: Video) -> None:
        """The folder of a video is there as a whole or not at all."""
        partial = self.path / f".{index}.{os.getpid()}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for number, frame in enumerate(video):
                Image.fromarray(np.asarray(frame)).save(partial / f"{number}.png")
            if not self.has(index):
                partial.rename(self.path / str(index))
        except OSError as error:
            raise DataError(
                f"{self.path}: video {index} cannot be written ({error.strerror or error}). Make room, and repeat the "
                "command to continue"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def read(self, index: int, num_frames: int) -> Video:
        """The first frames of a video, as many as there are up to `num_frames`."""
        count = min(num_frames, sum(1 for _ in (self.path / str(index)).glob("*.png")))
        return read_pictures([self.path / str(index) / f"{number}.png" for number in range(count)])


def write_mp4(path: Path, video: Video) -> None:
    with replacing(path) as partial:
        partial.write_bytes(encode_mp4(video, FPS))


def frechet_distance(
    real: VideoFolder, generated: VideoFolder, videos: Sequence[int], device: torch.device, network: FeatureNetwork
) -> dict[str, float | int]:
    """Distance between two folders of the same videos under its network's name, and on how many it stands."""
    distance = FrechetVideoDistance(network)
    for index in videos:
        for side, folder in (("real", real), ("generated", generated)):
            frames = torch.from_numpy(folder.read(index, DISTANCE_FRAMES)).permute(0, 3, 1, 2)
            distance.update(side, frames[None].to(device))
    return distance.results()


def fvd(
    real: VideoFolder, generated: VideoFolder, videos: Sequence[int], num_frames: int, device: torch.device
) -> tuple[dict[str, float | int], str | None]:
    """FVD (Unterthiner et al. 2018) of the first 16 frames; nothing, and why, where it cannot be had."""
    if num_frames < MIN_FRAMES or len(videos) < 2:
        return {}, f"FVD is left out: it needs two videos of {MIN_FRAMES} frames"
    try:
        network = load_i3d().to(device)
    except MissingWeightsError as error:
        return {}, f"FVD is left out. {error}"
    return frechet_distance(real, generated, videos, device, network), None
