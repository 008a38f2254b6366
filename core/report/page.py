"""The folder of a page: index.html, its style and scripts, and one script of pictures per gallery.

Scripts carry the data, since a page from file:// may not fetch other files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from core.benchmark.protocol import SCORES
from core.data.errors import DataError
from core.files import replacing

MARK = "report.json"
"""Says that a folder is a report, and names the files of galleries in it."""
STATIC = ("report.css", "report.js", "curves.js", "gallery.js")
GALLERIES = "galleries"


@dataclass(frozen=True)
class GalleryLink:
    """What the page knows of a gallery before its pictures are asked for."""

    run: str
    data: str
    file: str

    def to_dict(self) -> dict[str, str]:
        return {"run": self.run, "data": self.data, "file": self.file}


def claim(folder: Path, force: bool = False) -> None:
    """Make sure that `folder` is a report, empty or missing; DataError for another one unless `force`."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"--out {folder}: is a file. Name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).exists() and not force:
        raise DataError(
            f"--out {folder}: holds files and is no report. Name another folder, or add --force to write the page "
            "among them; files of other names stay"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / MARK) as partial:
        partial.write_text(json.dumps({"made_by": "tools/report.py", "galleries": _galleries_of(folder)}) + "\n")


def _galleries_of(folder: Path) -> list[str]:
    try:
        return list(json.loads((folder / MARK).read_text())["galleries"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write_gallery(folder: Path, number: int, run: str, data: str, content: Mapping[str, Any]) -> GalleryLink:
    """Write the pictures of one run on one data set as the script `galleries/<number>.js`."""
    name = f"{GALLERIES}/{number}.js"
    with replacing(folder / name) as partial:
        partial.write_text(f"report.galleryLoaded({json.dumps(name)}, {_json(content)});\n")
    return GalleryLink(run, data, name)


def write_page(
    folder: Path,
    *,
    runs: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    galleries: Sequence[GalleryLink],
    notes: Mapping[str, Sequence[str]],
) -> Path:
    """Write the page around the galleries that `write_gallery` wrote, and remove those of an earlier call.

    runs: `CollectedRun.to_dict()`; results: rows of tools/evaluate.py; notes: sentences about what is left out, under
    `errors` (runs that cannot be read), `results`, `galleries`.
    """
    own = files("core.report")
    for name in STATIC:
        with replacing(folder / name) as partial:
            partial.write_text((own / name).read_text())
    content = {
        "made": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        "runs": list(runs),
        "results": list(results),
        "scores": {name: {"title": title, "better": better} for name, (title, better) in SCORES.items()},
        "galleries": [gallery.to_dict() for gallery in galleries],
        "notes": {key: list(sentences) for key, sentences in notes.items()},
    }
    page = Template((own / "report.html").read_text()).substitute(data=_json(content))
    with replacing(folder / "index.html") as partial:
        partial.write_text(page)
    kept = [gallery.file for gallery in galleries]
    for stale in set(_galleries_of(folder)) - set(kept):
        if Path(stale).parent == Path(GALLERIES):
            (folder / stale).unlink(missing_ok=True)
    with replacing(folder / MARK) as partial:
        partial.write_text(json.dumps({"made_by": "tools/report.py", "galleries": kept}) + "\n")
    return folder / "index.html"


def _json(content: Any) -> str:
    """JSON that may stand in a script element, whatever names and paths are in it."""
    return json.dumps(_finite(content), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """`value` with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value if isinstance(value, str | int | bool | None) else str(value)
