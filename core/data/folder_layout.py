"""One's own pictures or videos in a folder, with or without masks.

Pictures: `<name>.png`, `.jpg`, `.jpeg` or `.webp`. Videos: folders of numbered pictures `<video>/<...number>.png`, or
files `<name>.mp4`, `.avi`, `.mov`, `.gif` or `.webm`. All in the folder itself, or in its folders `train`, `val` and
`test`. Numbers in names count: 2 comes before 10.

Masks, for all or for none, are PNG files (see core/data/instance_maps.py) below `masks/` under the name of what they
belong to: `masks/<name>.png` of `<name>.jpg`, `masks/train/<name>.png` of `train/<name>.jpg`, `masks/<video>/0001.png`
of `<video>/0001.jpg`; of a file `<name>.mp4` `masks/<name>/` holds as many as it has frames.

Without folders of splits the samples are split by their order: the last tenth is for testing, the tenth before it for
validation, at least one sample each, and the others are for training. Split `all` is everything.
"""

import re
from pathlib import Path
from typing import Literal

from core.data.errors import DataError, MissingSplit

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".avi", ".mov", ".gif", ".webm")
MASKS = "masks"
SPLITS = ("train", "val", "test")
SHARE = 10
EXPECTED = f"Expected pictures ({', '.join(PICTURES)}), videos ({', '.join(VIDEOS)}), or folders of numbered pictures"

FolderKind = Literal["images", "videos"]


def folder_kind(root: str | Path) -> FolderKind:
    """What a folder holds. Raises DataError where it is missing, empty or holds both."""
    return samples_of(Path(root), "all")[0]


def has_masks(root: str | Path) -> bool:
    """Whether a folder comes with masks."""
    return (Path(root) / MASKS).is_dir()


def samples_of(root: Path, split: str) -> tuple[FolderKind, list[Path]]:
    """What the samples of a split are, and where they lie, in order. Raises DataError, ValueError for another split."""
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}, all")
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder (from {Path.cwd()}). Check the path; behind it stand flags such as -crop or "
            "-(128,128)"
        )
    folders = [root / name for name in SPLITS if (root / name).is_dir()]
    if misplaced := [folder / MASKS for folder in folders if (folder / MASKS).is_dir()]:
        raise DataError(f"{misplaced[0]}: masks of this split belong into {root / MASKS / misplaced[0].parent.name}")
    if not folders:
        kind, samples = _samples_in(root)
        return kind, _share(root, samples, split)
    if split != "all":
        if root / split not in folders:
            raise MissingSplit(
                f"{root / split}: no such folder, though there is {folders[0].name}/. Add it, or take the split "
                "folders away to have the samples split by their order"
            )
        return _samples_in(root / split)
    found = [_samples_in(folder) for folder in folders]
    if len({kind for kind, _ in found}) > 1:
        raise DataError(f"{root}: some splits hold pictures, others videos. Keep one kind")
    return found[0][0], [sample for _, samples in found for sample in samples]


def _samples_in(folder: Path) -> tuple[FolderKind, list[Path]]:
    entries = sorted((entry for entry in folder.iterdir() if entry.name[0] != "."), key=_natural)
    pictures = [entry for entry in entries if entry.suffix.lower() in PICTURES and entry.is_file()]
    files = [entry for entry in entries if entry.suffix.lower() in VIDEOS and entry.is_file()]
    folders = [entry for entry in entries if entry.is_dir() and entry.name != MASKS]
    videos = sorted(files + [entry for entry in folders if numbered(entry)], key=_natural)
    if pictures and videos:
        raise DataError(
            f"{folder}: holds pictures, such as {pictures[0].name}, and videos, such as {videos[0].name}. Put them "
            f"into two folders; masks belong into {MASKS}/"
        )
    samples = pictures or videos
    if not samples:
        others = ", ".join(entry.name for entry in entries[:5]) or "nothing"
        raise DataError(f"{folder}: holds {others}. {EXPECTED}")
    stems = [sample if sample.is_dir() else sample.with_suffix("") for sample in samples]
    if len(set(stems)) < len(stems):
        twice = next(stem for number, stem in enumerate(stems) if stem in stems[:number])
        raise DataError(f"{twice}: two samples have this name and differ in their endings. Rename one of them")
    return ("images" if pictures else "videos"), samples


def _share(root: Path, samples: list[Path], split: str) -> list[Path]:
    if split == "all":
        return samples
    if len(samples) < len(SPLITS):
        raise DataError(
            f"{root}: {len(samples)} samples cannot be split into {', '.join(SPLITS)}. Add more, or folders of these "
            "names; split `all` takes everything"
        )
    held_out = max(1, len(samples) // SHARE)
    begin, end = {"train": (0, -2), "val": (-2, -1), "test": (-1, 0)}[split]
    count = len(samples)
    return samples[begin * held_out if begin else 0 : count + end * held_out]


def frames_of(folder: Path) -> list[Path]:
    """The frames of a video in order. Raises DataError for one without a number."""
    files = numbered(folder)
    if unnumbered := [file for file in files if not re.search(r"[0-9]$", file.stem)]:
        raise DataError(
            f"{unnumbered[0]}: has no number at its end. Pictures in a folder are the frames of a video, numbered in "
            "their order; put pictures that are no video into the folder above"
        )
    return files


def numbered(folder: Path) -> list[Path]:
    """The pictures in a folder in the order of their numbers."""
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.name[0] != ".")
    return sorted(files, key=_natural)


def _natural(path: Path) -> list[str | int]:
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"([0-9]+)", path.name)]


def require_masks(root: Path, files: list[Path], count: int) -> None:
    """Raises DataError where `files`, the masks of `count` pictures, are not all there."""
    if not has_masks(root):
        raise DataError(f"{root / MASKS}: no such folder, but masks are asked for. Read without them, or add them")
    if missing := [file for file in files if not file.exists()]:
        raise DataError(
            f"{missing[0]}: no such file ({len(missing)} of {count} masks are missing). Every picture needs a mask of "
            f"its name, as PNG; add them, or move {MASKS}/ away"
        )
