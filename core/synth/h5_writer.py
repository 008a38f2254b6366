"""Writes the multi-object `.h5` files that EfficientMORL reads (Emami et al. 2021), resumable after any interruption.

One file per split holds one group, named after the split, of contiguous arrays, so that a reader can memory-map them:
imgs [n,H,W,C] uint8; masks [n,E,H,W,1] uint8 of 0 or 255, entity 0 = background; factors [n,E,F] float32 with the
attribute `names`. Attributes of the file say how it was made: generator, options (JSON), seed, split, count, ...
"""

import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float32, UInt8
from tqdm import tqdm

from core.parallel import ordered_map

FORMAT_VERSION = 1

# Image, masks and factors of one scene, as a generator draws them.
Sample = tuple[UInt8[np.ndarray, "H W C"], UInt8[np.ndarray, "E H W"], Float32[np.ndarray, "E F"]]
# The same of consecutive scenes, as the file holds them.
Block = tuple[UInt8[np.ndarray, "B H W C"], UInt8[np.ndarray, "B E H W 1"], Float32[np.ndarray, "B E F"]]

_ARRAYS = ("imgs", "masks", "factors")
_BLOCK_SAMPLES = 128
_SECONDS_BETWEEN_RECORDS = 0.5
_HEADER_ROOM = 1 << 16  # more bytes than HDF5 needs beside the arrays


def write_h5(
    path: Path,
    *,
    sample: Callable[[np.random.Generator], Sample],
    factor_names: Sequence[str],
    generator: str,
    options: dict[str, int | float | str],
    split: str,
    count: int,
    seed: int,
    workers: int = 1,
    force: bool = False,
    draws: str | None = None,
) -> int:
    """Write `count` draws of `sample` to `path`; returns how many this call drew, 0 if the file was already complete.

    Sample i depends on (seed, `draws`, i) only, by default the split, so the bytes of the file do not depend on
    `workers` or interruptions. Work in progress stands in `<path>.partial`, which another call with the same settings
    continues. `sample` must be picklable if `workers` > 1; `generator` and `options` describe it in the file.

    FileExistsError if `path` exists, or `<path>.partial` was begun, with other settings, unless `force` (which draws
    everything anew and replaces `path` only when it is complete); OSError if the disk is full or the file cannot be
    written; BlockingIOError if another process is writing it; ValueError for a number out of range.
    """
    for name, value, least in (("count", count, 1), ("workers", workers, 1), ("seed", seed, 0)):
        if not least <= value < 2**63:
            raise ValueError(f"{name}: expected at least {least} and less than 2**63, found {value}")
    draws = draws or split
    first = _draw(sample, seed, draws, (0, 1))
    settings = {
        "generator": generator,
        "options": json.dumps(options, sort_keys=True),
        "seed": seed,
        "split": split,
        "count": count,
        "format_version": FORMAT_VERSION,
        "first_sample_sha256": hashlib.sha256(b"".join(array.tobytes() for array in first)).hexdigest(),
    }
    partial = path.with_name(path.name + ".partial")
    if force and partial.exists():
        with partial.open("r+b") as raw:
            _lock(raw.fileno(), partial)
            partial.unlink()
    if path.exists() and not force:
        if different := _differences(path, settings):
            raise FileExistsError(
                f"{path} exists and holds something else ({different}). Pass --force to overwrite it, or write to "
                "another folder."
            )
        return 0
    if partial.exists() and (different := _differences(partial, settings)):
        raise FileExistsError(
            f"{partial} was begun with other settings ({different}). Repeat the command that began it to continue, or "
            "pass --force to start over."
        )
    if not partial.exists():
        _create(partial, settings, first, factor_names)
    blocks = functools.partial(_blocks, functools.partial(_draw, sample, seed, draws), count, workers)
    return _fill(path, partial, count, blocks)


def sample_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Generator of sample `index` of a split; those of different (seed, split, index) are independent."""
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(split.encode()), index))
    return np.random.Generator(np.random.PCG64(sequence))


def _draw(sample: Callable[[np.random.Generator], Sample], seed: int, split: str, span: tuple[int, int]) -> Block:
    samples = [sample(sample_rng(seed, split, index)) for index in range(*span)]
    images, masks, factors = (np.stack(arrays) for arrays in zip(*samples))
    return images, masks[..., None], factors


def _differences(path: Path, settings: dict[str, int | str]) -> str:
    """What an existing file's settings and `settings` disagree in; empty if nothing."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = dict(file.attrs)
    except OSError:
        return "no readable HDF5 file"
    if missing := [name for name in (*settings, "completed") if name not in found]:
        return f"not written by this program: no attribute {missing[0]!r}"
    different = [name for name, value in settings.items() if found[name] != value]
    if different == ["first_sample_sha256"]:
        return "same settings, but the generator has since changed and draws other samples"
    return "; ".join(
        f"{name}: {found[name]} in the file, {settings[name]} asked for"
        for name in different
        if name != "first_sample_sha256"
    )


def _create(partial: Path, settings: dict[str, int | str], first: Block, factor_names: Sequence[str]) -> None:
    """The file with everything but its samples, whose place is reserved (without taking disk space)."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    size = settings["count"] * sum(array.nbytes for array in first)
    free = shutil.disk_usage(partial.parent).free
    if size > free:
        raise OSError(errno.ENOSPC, f"{partial} needs {size / 1e9:,.2f} GB, but the disk has {free / 1e9:,.2f} GB free")
    skeleton = partial.with_name(partial.name + ".new")
    try:
        # HDF5 does not survive a failure to extend its file, so that a size limit must show before it begins.
        with skeleton.open("wb") as raw:
            raw.truncate(size + _HEADER_ROOM)
    except OSError as error:
        skeleton.unlink(missing_ok=True)
        raise OSError(error.errno, f"{partial} cannot be made {size / 1e9:,.2f} GB large: {error.strerror}") from error
    # Aligned, so that a memory map of the float32 factors is aligned too.
    with h5py.File(skeleton, "w", alignment_threshold=1, alignment_interval=64) as file:
        for name, value in (*settings.items(), ("completed", 0)):
            file.attrs[name] = value
        group = file.create_group(settings["split"])
        for name, array in zip(_ARRAYS, first):
            reserved = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            reserved.set_layout(h5py.h5d.CONTIGUOUS)
            reserved.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            reserved.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            group.create_dataset(name, (settings["count"], *array.shape[1:]), array.dtype, dcpl=reserved)
        group["factors"].attrs["names"] = list(factor_names)
    skeleton.replace(partial)


def _fill(path: Path, partial: Path, count: int, blocks: Callable[[int], Iterator[Block]]) -> int:
    """Write the samples that `partial` lacks, `blocks(begin)` giving them, then name it `path`; returns their number.

    Samples go straight to the arrays' places in the file, and HDF5 only rewrites the attribute `completed`, after the
    samples it counts are on disk: neither kill -9 nor a full disk can leave a damaged file.
    """
    with partial.open("r+b", buffering=0) as raw:
        descriptor = raw.fileno()
        _lock(descriptor, partial)
        with h5py.File(partial, "r+", locking=False) as file:
            (group,) = file.values()
            offsets = [group[name].id.get_offset() for name in _ARRAYS]
            begin = done = recorded = int(file.attrs["completed"])
            record_at = time.monotonic()
            with tqdm(total=count, initial=begin, desc=path.stem, unit=" samples", disable=None) as bar:
                for block in blocks(begin):
                    try:
                        for array, offset in zip(block, offsets):
                            _write_at(descriptor, array, offset + done * array[0].nbytes)
                        done += len(block[0])
                        if done == count or time.monotonic() >= record_at:
                            os.fsync(descriptor)
                            file.attrs.modify("completed", done)
                            file.flush()
                            recorded = done
                            record_at = time.monotonic() + _SECONDS_BETWEEN_RECORDS
                    except OSError as error:
                        raise OSError(
                            error.errno,
                            f"{partial} cannot be written: {error.strerror or error}. It keeps {recorded:,} of "
                            f"{count:,} samples: make room and repeat the command to continue",
                        ) from error
                    bar.update(len(block[0]))
        os.fsync(descriptor)
        partial.replace(path)
    _sync_folder(path.parent)
    return count - begin


def _lock(descriptor: int, partial: Path) -> None:
    """Keep other processes from writing `partial` until the descriptor is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, f"{partial} is being written by another process") from error


def _write_at(descriptor: int, array: np.ndarray, offset: int) -> None:
    data = memoryview(np.ascontiguousarray(array)).cast("B")
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _sync_folder(folder: Path) -> None:
    """Make a renaming in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _blocks(draw: Callable[[tuple[int, int]], Block], count: int, workers: int, begin: int) -> Iterator[Block]:
    """Samples begin..count in order."""
    spans = ((start, min(start + _BLOCK_SAMPLES, count)) for start in range(begin, count, _BLOCK_SAMPLES))
    return ordered_map(draw, spans, workers)
