"""Folders of generated and of real samples, as tools that compute the FVD and the FID want them.

Of videos `<index>/<frame>.png`, of pictures `<index>.png`.
"""

import os
import shutil
from abc import ABC, abstractmethod
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
from core.metrics.inception import load_inception
from core.metrics.pretrained import MissingWeightsError
from core.metrics.video import FeatureNetwork, FrechetDistance
from core.provenance import Provenance, write_provenance
from core.viz.videos import encode_mp4

FPS = 8
DISTANCE_FRAMES = 16
"""From the beginning of each video, that the Frechet distance looks at."""
PICTURES_AT_A_TIME = 32
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


def claim(folder: Path, description: Path, provenance: Provenance, pattern: str = "*") -> None:
    """Say in the file `description` where what matches `pattern` in `folder` is from; by one process, before all.

    What a process left that was killed is removed, and a description of nothing gives way. Raises DataError where the
    folder holds what is from elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for partial in folder.glob(".*.partial"):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()
    if all(entry == description for entry in folder.glob(pattern)):
        write_provenance(description, provenance)
    else:
        provenance.claim(folder, description)


class SampleFolder(ABC):
    """The samples of one origin in `path`, which `<path>.json` tells; DataError where it holds those of another.

    The tools that read the folder find nothing but samples in it. A picture is a video of one frame.
    """

    def __init__(self, path: Path):
        self.path = path

    @abstractmethod
    def has(self, index: int) -> bool: ...

    @abstractmethod
    def write(self, index: int, video: Video) -> None:
        """Leave a sample there as a whole or not at all. Raises DataError."""

    @abstractmethod
    def read(self, index: int, num_frames: int) -> Video:
        """The first frames of a sample, as many as there are up to `num_frames`."""

    def claim(self, provenance: Provenance) -> None:
        """By one process, before all; see `claim`."""
        claim(self.path, self.path.with_name(f"{self.path.name}.json"), provenance)


class VideoFolder(SampleFolder):
    """Of videos: a folder of frames for each."""

    def has(self, index: int) -> bool:
        return (self.path / str(index)).is_dir()

    def write(self, index: int, video: Video) -> None:
        partial = self.path / f".{index}.{os.getpid()}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for number, frame in enumerate(video):
                Image.fromarray(np.asarray(frame)).save(partial / f"{number}.png")
            if not self.has(index):
                partial.rename(self.path / str(index))
        except OSError as error:
            raise unwritable(self.path, index, error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def read(self, index: int, num_frames: int) -> Video:
        count = min(num_frames, sum(1 for _ in (self.path / str(index)).glob("*.png")))
        return read_pictures([self.path / str(index) / f"{number}.png" for number in range(count)])


class PictureFolder(SampleFolder):
    """Of pictures: a file for each."""

    def has(self, index: int) -> bool:
        return self._file(index).is_file()

    def write(self, index: int, video: Video) -> None:
        try:
            with replacing(self._file(index)) as partial:
                Image.fromarray(np.asarray(video[0])).save(partial, format="PNG")
        except OSError as error:
            raise unwritable(self.path, index, error) from error

    def read(self, index: int, num_frames: int) -> Video:
        return read_pictures([self._file(index)])

    def _file(self, index: int) -> Path:
        return self.path / f"{index}.png"


class ShownVideos:
    """Videos to look at: files `<index>_<kind>.mp4` in `path`, beside those of other kinds.

    `<path>_<kind>.json` tells where they are from.
    """

    def __init__(self, path: Path, kind: str):
        self.path = path
        self.kind = kind

    def has(self, index: int) -> bool:
        return self._file(index).is_file()

    def write(self, index: int, video: Video) -> None:
        """Leave it there as a whole or not at all. Raises DataError."""
        try:
            with replacing(self._file(index)) as partial:
                partial.write_bytes(encode_mp4(video, FPS))
        except OSError as error:
            raise unwritable(self.path, index, error) from error

    def claim(self, provenance: Provenance) -> None:
        """By one process, before all; see `claim`."""
        description = self.path.with_name(f"{self.path.name}_{self.kind}.json")
        claim(self.path, description, provenance, f"*_{self.kind}.mp4")

    def _file(self, index: int) -> Path:
        return self.path / f"{index}_{self.kind}.mp4"


def unwritable(path: Path, index: int, error: OSError) -> DataError:
    """Why a sample is not there."""
    return DataError(
        f"{path}: sample {index} cannot be written ({error.strerror or error}). Make room, and repeat the command to "
        "continue"
    )


def frechet_distance(
    real: SampleFolder,
    generated: SampleFolder,
    indices: Sequence[int],
    device: torch.device,
    network: FeatureNetwork,
    at_a_time: int = 1,
) -> dict[str, float | int]:
    """Distance between two folders of the same samples under their network's name, and on how many it stands."""
    distance = FrechetDistance(network)
    of_videos = isinstance(real, VideoFolder)
    for begin in range(0, len(indices), at_a_time):
        for side, folder in (("real", real), ("generated", generated)):
            videos = np.stack([folder.read(index, DISTANCE_FRAMES) for index in indices[begin : begin + at_a_time]])
            samples = torch.from_numpy(videos).permute(0, 1, 4, 2, 3).to(device)
            distance.update(side, samples if of_videos else samples[:, 0])
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


def fid(
    real: PictureFolder, generated: PictureFolder, pictures: Sequence[int], device: torch.device
) -> tuple[dict[str, float | int], str | None]:
    """FID (Heusel et al. 2017); nothing, and why, where it cannot be had."""
    if len(pictures) < 2:
        return {}, "FID is left out: it needs two pictures"
    try:
        network = load_inception().to(device)
    except MissingWeightsError as error:
        return {}, f"FID is left out. {error}"
    return frechet_distance(real, generated, pictures, device, network, PICTURES_AT_A_TIME), None
