"""The sources of a run, kept beside its results."""

import subprocess
import tarfile
from datetime import datetime
from pathlib import Path

from core.files import replacing

ROOT = Path(__file__).parents[2]


def archive_sources(folder: Path) -> Path | None:
    """Write `code_YYMMDD_HHMMSS.tar.gz` with the files that git tracks, as they are now; None outside a repository."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z", "*.py", "*.toml", "*.txt"], cwd=ROOT, capture_output=True)
    except OSError:
        return None
    names = [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    if listed.returncode or not names:
        return None
    path = folder / f"code_{datetime.now():%y%m%d_%H%M%S}.tar.gz"
    with replacing(path) as partial, tarfile.open(partial, "w:gz") as archive:
        for name in names:
            archive.add(ROOT / name, name)
    return path
