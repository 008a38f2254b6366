"""Folders of frames `video/%06d.jpg` made of `video.mp4` beside them, which train faster than the videos."""

import fcntl
import re
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import av
from PIL import Image
from tqdm import tqdm

from core.data.errors import DataError
from core.data.video import mp4_frames, to_frame_size
from core.parallel import ordered_map

JPEG_QUALITY = 95  # OpenCV's default, with which the originals wrote theirs


@dataclass
class Extraction:
    """Numbers of folders written by a call and found complete, and a message for each video that failed."""

    written: int = 0
    already_there: int = 0
    failures: list[str] = field(default_factory=list)


def extract_frames(root: Path, videos: Sequence[Path], max_frames: int | None = None, workers: int = 1) -> Extraction:
    """Write the first `max_frames` frames of each mp4 in `videos`, all below `root`, to a folder of its name.

    Larger frames are squashed to 128x128, bilinearly and without antialiasing. A folder appears only when it is
    complete; those with as many frames as the video has are left alone, others made anew, so that the same call
    continues an interrupted one. A video that cannot be read is reported, and the others are extracted all the same.
    Raises DataError if another process is at work below `root`.
    """
    result = Extraction()
    with (root / ".video2frames.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{root}: another process extracts frames there. Wait for it, or stop it") from error
        outcomes = ordered_map(partial(_extract, max_frames=max_frames), videos, workers)
        for outcome in tqdm(outcomes, total=len(videos), desc=f"frames of {root.name}", unit=" videos", disable=None):
            if outcome is True:
                result.written += 1
            elif outcome is False:
                result.already_there += 1
            else:
                result.failures.append(outcome)
    return result


def _extract(path: Path, max_frames: int | None) -> bool | str:
    """Whether the folder had to be written, or what went wrong."""
    folder = path.with_suffix("")
    partial_folder = folder.with_name(f".{folder.name}.partial")
    try:
        if folder.is_dir() and _is_complete(folder, path, max_frames):
            return False
        shutil.rmtree(partial_folder, ignore_errors=True)
        with closing(mp4_frames(path)) as frames:
            for number, frame in enumerate(islice(frames, max_frames)):
                partial_folder.mkdir(exist_ok=True)
                Image.fromarray(to_frame_size(frame)).save(partial_folder / f"{number:06d}.jpg", quality=JPEG_QUALITY)
        if not partial_folder.exists():
            return f"{path}: holds no frame. Fetch or make the file again"
        shutil.rmtree(folder, ignore_errors=True)
        partial_folder.rename(folder)
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"{folder}: cannot be written ({error.strerror or error}). Make room, and repeat the command to continue"
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return True


def _is_complete(folder: Path, path: Path, max_frames: int | None) -> bool:
    found = sum(1 for entry in folder.iterdir() if re.fullmatch(r"\d{6}\.jpg", entry.name))
    if not path.exists():
        return found > 0  # nothing to compare with
    try:
        with av.open(str(path)) as container:
            expected = container.streams.video[0].frames
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DataError(f"{path}: not readable as a video ({error}). Fetch or make the file again") from error
    return found == (expected if max_frames is None else min(expected, max_frames))
