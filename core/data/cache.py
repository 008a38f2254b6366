"""Arrays that are decoded once and memory-mapped ever after."""

import fcntl
import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core.data.errors import DataError

ROWS_AT_A_TIME = 64


def cache_folder() -> Path:
    """`$OBJECTCENTRIC_CACHE`, else `~/.cache/objectcentric`."""
    return Path(os.environ.get("OBJECTCENTRIC_CACHE") or Path.home() / ".cache" / "objectcentric")


def cached_rows(
    source: Path,
    recipe: str,
    shape: tuple[int, ...],
    decode: Callable[[int, int], np.ndarray],
    *,
    stamped: bool = False,
) -> np.ndarray:
    """A read-only memory map of uint8 `shape` whose rows [a, b) are `decode(a, b)`.

    Decoded on the first call into the cache folder, under a key of the source's path, size and time and of `recipe`;
    one process decodes while others wait. The file appears only when it is complete.

    stamped: the recipe says of which size and time the files are, and the source is but their folder, whose own time
    says only when anything was last put there.
    """
    status = source.stat()
    stamp = "" if stamped else f"{status.st_size}|{status.st_mtime_ns}"
    identity = f"{source.resolve()}|{stamp}|{recipe}|{shape}"
    folder = cache_folder()
    target = folder / f"{source.stem}-{recipe}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                _decode_all(source, target, shape, decode)
    except OSError as error:
        raise DataError(
            f"{target}: cannot keep the decoded pictures of {source} ({error.strerror or error}). "
            "Make room, or set OBJECTCENTRIC_CACHE to a folder with space"
        ) from error
    return np.load(target, mmap_mode="r")


def _decoded(source: Path, decode: Callable[[int, int], np.ndarray], start: int, stop: int) -> np.ndarray:
    """What fails here is the source, not the cache."""
    try:
        return decode(start, stop)
    except OSError as error:
        raise DataError(
            f"{error.filename or source}: cannot be read ({error.strerror or error}). Fetch or make it again"
        ) from error


def _decode_all(source: Path, target: Path, shape: tuple[int, ...], decode: Callable[[int, int], np.ndarray]) -> None:
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            with tqdm(total=shape[0], desc=f"decoding {source.name} once", unit="img", leave=False) as bar:
                for start in range(0, shape[0], ROWS_AT_A_TIME):
                    stop = min(start + ROWS_AT_A_TIME, shape[0])
                    rows = _decoded(source, decode, start, stop)
                    expected = (stop - start, *shape[1:])
                    if rows.size != math.prod(expected):
                        raise DataError(f"{source}: [{start}:{stop}] decodes to {rows.shape}, expected {expected}")
                    file.write(np.ascontiguousarray(rows, dtype=np.uint8).tobytes())
                    bar.update(len(rows))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
