"""Files that a reader finds whole or not at all, and folders that one process has to itself."""

import fcntl
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


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


def same_file(source: Path, target: Path) -> None:
    """`source` under another name, too: a link where the disk allows it, else a copy. It must never change in place."""
    with replacing(target) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def occupy(folder: Path, name: str = ".lock") -> IO | None:
    """Lock a folder, or what `name` stands for in it, until the file that is returned closes; None if another has it.

    Forked processes, such as data workers, do not hold on to it: they may outlive a process that was killed.
    """
    lock = (folder / name).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    os.register_at_fork(after_in_child=_closing(lock))
    return lock


def _closing(file: IO) -> Callable[[], None]:
    """Closes the file if it is still in use, without keeping it."""
    reference = weakref.ref(file)

    def close() -> None:
        if (found := reference()) is not None:
            found.close()

    return close
