"""Files that a reader finds whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when the block ends, and is removed if it fails.

    The folder is made if it is missing. With `durable` the content is on the disk before the old file goes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
