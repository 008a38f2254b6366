"""Videos on disk, as mp4 files or folders of pictures: read, resized, and decoded once into the cache."""

import hashlib
import itertools
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch.nn import functional

from core.data.cache import cache_folder, cached_rows
from core.data.errors import DataError

FRAME_SIDE = 128
"""Sides of extracted frames; frames of an mp4 pass through this size too, so that both give the same pictures."""
SUFFIXES = (".jpg", ".png")
MOST_THREADS = 8

Frame = UInt8[np.ndarray, "H W 3"]
Frames = UInt8[np.ndarray, "T H W 3"]


def mp4_frames(path: Path) -> Iterator[Frame]:
    """The frames of a video file as RGB, in order, upright as its camera says.

    Raises DataError where the file is damaged or cut short.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Fetch it, or make the data again with the command that made it")
    found = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: holds no video. The file is damaged or cut short: fetch or make it again")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise DataError(f"{path}: its code is not known. The file is damaged: fetch or make it again")
            # Threads would conceal damage; here other videos are decoded at the same time.
            stream.thread_type = "NONE"
            stream.codec_context.options = {"err_detect": "explode"}
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise DataError(f"{path}: frame {found} is damaged. Fetch or make the file again")
                yield _upright(frame.to_ndarray(format="rgb24"), frame.rotation)
                found += 1
            announced = stream.frames
    except (av.FFmpegError, OSError, EOFError, IndexError) as error:
        raise DataError(
            f"{path}: not readable as a video after frame {found} ({error}). The file is damaged or cut short: "
            "fetch or make it again"
        ) from error
    if found < announced:
        raise DataError(
            f"{path}: ends after {found} of {announced} frames. The file is cut short: fetch or make it again"
        )


def _upright(frame: Frame, degrees: int) -> UInt8[np.ndarray, "h w 3"]:
    """Turned counter-clockwise by the next multiple of a right angle."""
    turns = round(degrees / 90) % 4
    return np.ascontiguousarray(np.rot90(frame, turns)) if turns else frame


def read_mp4(path: Path, count: int) -> Frames:
    """The first `count` frames of a video file, no side of them larger than FRAME_SIDE. Raises DataError."""
    with closing(mp4_frames(path)) as frames:
        found = [to_frame_size(frame) for frame in itertools.islice(frames, count)]
    if len(found) < count:
        raise DataError(
            f"{path}: holds {len(found)} frames, expected at least {count}. Fetch or make the file again, or lower "
            "the length of videos"
        )
    return np.stack(found)


def to_frame_size(frame: Frame) -> UInt8[np.ndarray, "h w 3"]:
    """A frame as it lies in a folder of frames: larger ones are squashed to FRAME_SIDE x FRAME_SIDE."""
    if max(frame.shape[:2]) <= FRAME_SIDE:
        return frame
    return resize_frames(frame[None], (FRAME_SIDE, FRAME_SIDE))[0]


def read_pictures(files: Sequence[Path]) -> Frames:
    """Picture files of one size as RGB. Raises DataError that names the first one missing, damaged or different."""
    frames = []
    for path in files:
        frames.append(read_picture(path, "RGB"))
        if frames[-1].shape != frames[0].shape:
            height, width = frames[-1].shape[:2]
            expected = frames[0].shape[1::-1]
            raise DataError(
                f"{path}: is {width}x{height}, but {files[0].name} is {expected[0]}x{expected[1]}. "
                "Frames of one video have one size: fetch or extract the folder again"
            )
    return np.stack(frames)


def read_picture(path: Path, mode: Literal["RGB", "L"]) -> UInt8[np.ndarray, "..."]:
    """One picture as "RGB", or as "L" what must have one channel; palettes keep their indices. Raises DataError."""
    try:
        with Image.open(path) as file:
            if file.format == "PNG":
                file.verify()  # decoding alone lets some damage pass
        with Image.open(path) as file:
            if mode == "L" and file.mode not in ("L", "P", "1"):
                raise DataError(f"{path}: a mask has one byte per pixel, this picture is {file.mode}. Make it again")
            picture = file.copy() if mode == "L" and file.mode == "P" else file.convert(mode)
    except FileNotFoundError as error:
        raise DataError(f"{path}: {_missing(path)}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}). Fetch or extract the folder again") from error
    return np.array(picture)


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"no such file, nor its folder {path.parent.name}/. Fetch or make the data again"
    count = sum(1 for _ in path.parent.iterdir())
    return f"no such file; its folder holds {count} files. It was not copied or extracted to the end: do it again"


def frame_files(folder: Path, stems: Sequence[str]) -> list[Path]:
    """The files of a folder of frames, whose suffix is the one that the first of them has."""
    suffix = next((suffix for suffix in SUFFIXES if (folder / f"{stems[0]}{suffix}").exists()), SUFFIXES[0])
    return [folder / f"{stem}{suffix}" for stem in stems]


def folder_or_mp4(mp4: Path) -> Path:
    """The folder of frames beside a video file if there is one, which was asked for by extracting it, else the file."""
    folder = mp4.with_suffix("")
    return folder if folder.is_dir() else mp4


def read_video(source: Path, stems: Sequence[str]) -> Frames:
    """As many first frames as there are `stems`, the names of the pictures should `source` be a folder."""
    if source.suffix == ".mp4":
        return read_mp4(source, len(stems))
    return read_pictures(frame_files(source, stems))


def decode_video(source: Path, stems: Sequence[str], size: tuple[int, int]) -> Frames:
    """`read_video` at height and width `size`."""
    return resize_frames(read_video(source, stems), size)


def resize_frames(frames: Frames, size: tuple[int, int]) -> UInt8[np.ndarray, "T h w 3"]:
    """`bilinear` rounded to bytes."""
    if frames.shape[1:3] == size:
        return frames
    return np.stack([np.rint(bilinear(frame, size)).astype(np.uint8) for frame in frames])


def bilinear(frame: Frame, size: tuple[int, int]) -> Float32[np.ndarray, "h w 3"]:
    """Bilinear resize without antialiasing, pixel centres at one half, in 0..255; at factor 2 the mean of 2x2 pixels.

    What torchvision up to 0.11 did to tensors, with which the published models were trained.
    """
    (top, bottom, down), (left, right, across) = (_taps(*sides) for sides in zip(frame.shape[:2], size))
    down, across = down[:, None, None], across[None, :, None]
    rows = frame[top] * (1 - down) + frame[bottom] * down
    return rows[:, left] * (1 - across) + rows[:, right] * across


def _taps(length: int, resized: int) -> tuple[np.ndarray, np.ndarray, Float32[np.ndarray, "n"]]:
    """For each resized pixel the two it lies between and how near it is to the second."""
    centres = np.maximum((np.arange(resized) + 0.5) * (length / resized) - 0.5, 0)
    first = centres.astype(np.int64)
    return first, np.minimum(first + 1, length - 1), (centres - first).astype(np.float32)


def resize_labels(labels: UInt8[np.ndarray, "T H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "T h w"]:
    """Nearest resize of label maps or masks, as `torch.nn.functional.interpolate` picks the pixels."""
    if labels.shape[1:] == size:
        return labels
    return functional.interpolate(torch.from_numpy(labels)[None], size, mode="nearest")[0].numpy()


def read_label_maps(folder: Path, stems: Sequence[str], size: tuple[int, int]) -> UInt8[np.ndarray, "T h w"]:
    """The PNG files `stems` of instance indices in `folder`, resized."""
    return np.stack([resize_labels(read_picture(folder / f"{stem}.png", "L")[None], size)[0] for stem in stems])


def decoded_once(
    path: Path,
    recipe: str,
    sources: Sequence[Path],
    shape: tuple[int, ...],
    decode: Callable[[Path], np.ndarray],
    stems: Sequence[str] = (),
) -> np.ndarray:
    """Read-only memory map [V, *shape] uint8 of `decode(source)` of each source, decoded on the first call.

    `path` is the folder of the data set split; a changed list of sources, or a changed source, is decoded anew. A
    folder counts as changed when a file comes, goes or is renamed, or when its first or last frame of `stems` differs.
    The array appears in the cache only when it is complete. Raises DataError.
    """
    frames = None

    def rows(start: int, stop: int) -> np.ndarray:
        nonlocal frames
        if frames is None:
            check_room(path, math.prod((len(sources), *shape)))
            frames = itertools.chain.from_iterable(_in_order(decode, sources, shape))
        return np.stack(list(itertools.islice(frames, stop - start)))

    recipe = f"{recipe}-{stamp(path, sources, stems)}"
    decoded = cached_rows(path, recipe, (len(sources) * shape[0], *shape[1:]), rows)
    return decoded.reshape(len(sources), *shape)


def _in_order(
    decode: Callable[[Path], np.ndarray], sources: Sequence[Path], shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """`decode` of every source in order, on as many threads as there are cores: decoders release Python's lock."""
    threads = min(MOST_THREADS, len(os.sched_getaffinity(0)), len(sources))
    pool = ThreadPoolExecutor(threads)
    pending: deque = deque()
    try:
        waiting = iter(sources)
        pending.extend((source, pool.submit(decode, source)) for source in itertools.islice(waiting, 2 * threads))
        while pending:
            source, future = pending.popleft()
            video = future.result()
            if video.shape != shape:
                raise DataError(f"{source}: decodes to {list(video.shape)}, expected {list(shape)}")
            if (further := next(waiting, None)) is not None:
                pending.append((further, pool.submit(decode, further)))
            yield video
    finally:
        pool.shutdown(cancel_futures=True)


def stamp(path: Path, sources: Iterable[Path], stems: Sequence[str] = ()) -> str:
    """A name for the present content of `sources` below `path`, by their sizes and times; see `decoded_once`."""
    stamps = hashlib.sha256()
    for source in sources:
        witnesses = [source]
        if stems and source.is_dir():
            files = frame_files(source, stems)
            witnesses += [files[0], files[-1]]
        for witness in witnesses:
            status = witness.stat() if witness.exists() else None
            times = status and (status.st_size, status.st_mtime_ns)
            stamps.update(f"{os.path.relpath(witness, path)}|{times}\n".encode())
    return stamps.hexdigest()[:16]


def check_room(path: Path, size: int) -> None:
    """Raises DataError if the cache folder has no room for `size` bytes of the data set at `path`."""
    free = shutil.disk_usage(cache_folder()).free
    if size > free:
        raise DataError(
            f"{path}: takes {size / 1e9:,.1f} GB once decoded, but {cache_folder()} has {free / 1e9:,.1f} GB free. "
            "Make room, or set OBJECTCENTRIC_CACHE to a folder with space"
        )
