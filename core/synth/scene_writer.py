"""Data sets of one or more files per scene: complete scenes only, whatever happens while they are written."""

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from core.files import replacing
from core.parallel import ordered_map

Files = dict[str, bytes]
"""Contents by path below the root of the data set."""
Options = dict[str, int | float]
"""Of a data set, by their names on the command line."""

DESCRIPTION = "dataset.json"
_JOURNAL = ".scenes-written"
_ENTRIES = ".entries"
_FREE_TO_CHANGE = ("count", "complete", "made_in_seconds")


def write_scenes(
    root: Path,
    make: Callable[[int], Files],
    count: int,
    description: dict[str, Any],
    *,
    finish: Callable[[], Files] | None = None,
    workers: int = 1,
    force: bool = False,
    scenes_each: int = 1,
) -> int:
    """Write the files of items 0 to `count` - 1 below `root`; returns how many scenes this call made.

    An item is a scene, or a file of `scenes_each` scenes, written as a whole. In `dataset.json` and messages scenes
    are counted.

    `make(i)` is a function of i alone, so that neither the number of workers nor interruptions change a byte, and a
    data set can be continued to a larger `count`. An item counts when all its files are on disk, under their final
    names; the journal `.scenes-written` says which are. `dataset.json` holds `description`, the count, and the word
    "generated"; `finish()` gives the files that cover all scenes (lists, tables), written last.

    FileExistsError if `root` holds a data set of another description, or more of it, unless `force`, which begins anew;
    OSError if a file cannot be written; BlockingIOError if another process is writing it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, f"{root} is being written by another process") from error
        replaces = force and _clear(root)
        written = set() if replaces else _begin(root, description, count, scenes_each)
        if replaces:
            _describe(root, description, count * scenes_each, complete=False)
        missing = [item for item in range(count) if item not in written]
        if missing or not _is_complete(root):
            _write_missing(root, make, missing, count, workers, scenes_each)
            _write_files(root, finish() if finish else {})
            _describe(root, description, count * scenes_each, complete=True)
            (root / _JOURNAL).unlink(missing_ok=True)
    (root / ".lock").unlink(missing_ok=True)
    return len(missing) * scenes_each


def _begin(root: Path, description: dict[str, Any], count: int, scenes_each: int) -> set[int]:
    """Items that are complete already. Raises FileExistsError."""
    path = root / DESCRIPTION
    if path.exists():
        found = json.loads(path.read_text())
        wanted = json.loads(json.dumps(description))
        different = [key for key in {**found, **wanted} if key not in (*_FREE_TO_CHANGE, "generated")]
        different = [key for key in different if found.get(key) != wanted.get(key)]
        if different:
            lines = "; ".join(f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} asked for" for key in different)
            raise FileExistsError(
                f"{root} holds another data set ({lines}). Pass --force to overwrite it, or write to another folder."
            )
        if found["complete"]:
            done = set(range(found["count"] // scenes_each))
        else:
            done = _read_journal(root / _JOURNAL)
        present = max(done, default=-1) + 1
        if count < present:
            raise FileExistsError(
                f"{root} holds {present * scenes_each:,} scenes of this description, {count * scenes_each:,} are asked "
                "for. Pass --force to begin anew, or write to another folder."
            )
        if not found["complete"] or count == present:
            return done
        with (root / _JOURNAL).open("w") as journal:  # to be continued
            journal.writelines(f"{item}\n" for item in sorted(done))
        _describe(root, description, count * scenes_each, complete=False)
        return done
    if any(entry.name != ".lock" for entry in root.iterdir()):
        raise FileExistsError(f"{root} is not empty, and holds no {DESCRIPTION} of ours. Write to another folder.")
    _describe(root, description, count * scenes_each, complete=False)
    return set()


def _clear(root: Path) -> bool:
    """Remove what an earlier call wrote, and nothing that it did not; whether there was anything of ours."""
    if not (root / DESCRIPTION).exists():
        return False
    for name in (_JOURNAL, "preview.png", "preview.gif", *_entries(root), _ENTRIES):
        if (root / name).is_dir():
            shutil.rmtree(root / name)
        else:
            (root / name).unlink(missing_ok=True)
    (root / DESCRIPTION).unlink()
    return True


def _entries(root: Path) -> list[str]:
    """What we have put into `root` so far: names of files and folders."""
    path = root / _ENTRIES
    return path.read_text().splitlines() if path.exists() else []


def _write_files(root: Path, files: Files) -> None:
    unknown = sorted({Path(path).parts[0] for path in files} - set(_entries(root)))
    if unknown:  # noted before they are made
        with (root / _ENTRIES).open("a") as entries:
            entries.writelines(f"{name}\n" for name in unknown)
    for path, content in files.items():
        with replacing(root / path) as partial:
            partial.write_bytes(content)


def _is_complete(root: Path) -> bool:
    return json.loads((root / DESCRIPTION).read_text())["complete"]


def _read_journal(path: Path) -> set[int]:
    """A line that a crash cut short does not end in a newline."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return {int(line) for line in lines if line.endswith("\n")}


def _write_missing(
    root: Path, make: Callable[[int], Files], missing: list[int], count: int, workers: int, scenes_each: int
) -> None:
    total, done = count * scenes_each, (count - len(missing)) * scenes_each
    with (
        (root / _JOURNAL).open("a+b") as journal,
        tqdm(total=total, initial=done, desc=root.name, unit="scene", disable=None) as bar,
    ):
        if journal.tell() and not (root / _JOURNAL).read_bytes().endswith(b"\n"):
            journal.write(b"\n")
        for item, files in zip(missing, ordered_map(make, missing, workers)):
            try:
                _write_files(root, files)
                journal.write(f"{item}\n".encode())
                journal.flush()
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{error.filename or root} cannot be written: {error.strerror or error}. {root} keeps {done:,} of "
                    f"{total:,} scenes: make room and repeat the command to continue",
                ) from error
            done += scenes_each
            bar.update(scenes_each)


def _describe(root: Path, description: dict[str, Any], count: int, complete: bool) -> None:
    content = {"generated": True, **description, "count": count, "complete": complete}
    with replacing(root / DESCRIPTION) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")
