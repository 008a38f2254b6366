"""Files that a list of a data set names."""

from collections.abc import Sequence
from pathlib import Path

from core.data.errors import DataError


def listed_files(folder: Path, names: Sequence[str], remedy: str) -> list[Path]:
    """`names` in `folder`. Raises DataError that names the first one missing, and says `remedy`."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if missing := [name for name in names if name not in there]:
        raise DataError(
            f"{folder / missing[0]}: no such file ({len(missing):,} of the {len(names):,} that are listed are missing "
            f"there). {remedy}"
        )
    return [folder / name for name in names]
