"""ClevrTex on disk (Karazija et al. 2021): `CLEVRTEX_<variant>_NNNNNN.png` in any folders, 240x320.

Beside each picture `CLEVRTEX_<variant>_NNNNNN_flat.png`, its entity indices (0 = background), and
`CLEVRTEX_<variant>_NNNNNN.json`, which describes the scene.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.data.errors import DataError, MissingSplit
from core.data.framing import Framing, LabelMap, Picture
from core.data.picture_reader import PictureReader

VARIANTS = ("full", "pbg", "vbg", "grassbg", "camo", "outd", "test")
WHOLE = ("outd", "test")
"""Variants that are not split."""
SPLITS = {"test": (0.0, 0.1), "val": (0.1, 0.2), "train": (0.2, 1.0)}
PUBLISHED = Framing(crop=0.8, size=(128, 128), antialias=True)
DESCRIBED = ("material", "shape", "size", "rotation")
SOURCE = "The published set comes from https://www.robots.ox.ac.uk/~vgg/data/clevrtex/"


class ClevrTex(PictureReader):
    """One split of a ClevrTex variant, by default cut to the central 0.8 of the shorter side, at 128x128.

    `root` is the folder of the variant, `clevrtex_<variant>`, or the one that holds it. Splits are fractions of the
    numbering: test first, then val, then train; `outd` is one whole, and so is the `test` of tools/make_data.py.
    `framing` as a rule has `antialias`, with which the published pictures were resized. `most_entities` leaves out
    pictures with more entities, the background among them; the splits stay what they are.

    Raises DataError where numbers are missing or given twice, or, with `masks`, label maps.
    """

    def __init__(
        self,
        root: str | Path,
        variant: str,
        split: str,
        framing: Framing = PUBLISHED,
        masks: bool = False,
        most_entities: int | None = None,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"ClevrTex variant {variant!r} is not one of {', '.join(VARIANTS)}")
        if split not in SPLITS:
            raise ValueError(f"ClevrTex split {split!r} is not one of {', '.join(SPLITS)}")
        root = Path(root)
        path = root if root.name == f"clevrtex_{variant}" else root / f"clevrtex_{variant}"
        tree = _tree(path, variant)
        begin, end = (0.0, 1.0) if variant in WHOLE else SPLITS[split]
        count = len(tree.pictures)
        pictures = tree.pictures[int(begin * count) : int(end * count)]
        if not pictures:
            raise MissingSplit(f"{path}: holds {count} pictures, too few for a {split} split. {_remedy(variant)}")
        super().__init__(path, f"{variant}-{split}", pictures, framing, masks)
        self.variant = variant
        if masks or most_entities is not None:
            self._require_label_maps(tree.label_maps)
        if most_entities is not None:
            self._leave_out_crowded(most_entities)

    def _leave_out_crowded(self, most_entities: int) -> None:
        files = list(map(self.file_of_labels, self.sources))
        counts = self.decode(f"{self.recipe}-entities", files, (1,), self._count_entities)[:, 0]
        self.sources = [source for source, count in zip(self.sources, counts) if count <= most_entities]
        if not self.sources:
            raise DataError(
                f"{self.path}: every picture of this split has more than {most_entities} entities, the fewest are "
                f"{counts.min()}. Allow more"
            )

    def _count_entities(self, path: Path) -> np.ndarray:
        return np.array([min(len(np.unique(self.open_labels(path))), 255)], np.uint8)

    def metadata(self, index: int) -> dict[str, Any]:
        """What the scene of a sample is made of, read from its JSON file; negative indices count from the end.

        `ground_material`, and of each of the `objects`, in the order of the labels 1, 2, ..., `material`, `shape`,
        `size` and `rotation`, in the variant vbg `color` too. Raises DataError.
        """
        path = self.sources[index].with_suffix(".json")
        keys = (*DESCRIBED, "color") if self.variant == "vbg" else DESCRIBED
        try:
            scene = json.loads(path.read_text())
            objects = [{key: thing[key] for key in keys} for thing in scene["objects"]]
            return {"ground_material": scene["ground_material"], "objects": objects}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: cannot be read as the description of a scene ({error!r}). {_remedy(self.variant)}"
            ) from error

    def open_picture(self, path: Path) -> Picture:
        """The picture in a file, without its alpha channel. Raises DataError."""
        return np.asarray(self._open(path).convert("RGB"))

    def open_labels(self, path: Path) -> LabelMap:
        """The entity indices in a file. Raises DataError."""
        labels = self._open(path)
        if labels.mode not in ("L", "P"):
            raise DataError(
                f"{path}: a label map has one byte per pixel, this picture is {labels.mode}. {_remedy(self.variant)}"
            )
        return np.asarray(labels)

    def file_of_labels(self, picture: Path) -> Path:
        return picture.with_name(f"{picture.stem}_flat.png")

    def _open(self, path: Path) -> Image.Image:
        try:
            with Image.open(path) as file:
                file.verify()  # decoding alone lets some damage pass
            with Image.open(path) as file:
                file.load()
                return file
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as a picture ({error}). {_remedy(self.variant)}") from error

    def _require_label_maps(self, there: frozenset[Path]) -> None:
        missing = [path for path in map(self.file_of_labels, self.sources) if path not in there]
        if missing:
            raise DataError(
                f"{missing[0]}: no such file ({len(missing)} of {len(self)} label maps of this split are missing). "
                f"{_remedy(self.variant)}"
            )


@dataclass(frozen=True)
class _Tree:
    """The files of a variant, and when each of its folders had last changed."""

    folders: dict[str, int]
    pictures: list[Path]
    label_maps: frozenset[Path]

    def is_current(self) -> bool:
        try:
            return all(Path(folder).stat().st_mtime_ns == time for folder, time in self.folders.items())
        except OSError:
            return False


_trees: dict[Path, _Tree] = {}


def _tree(path: Path, variant: str) -> _Tree:
    """Walks through the tree of a variant, once per process for all splits unless one of its folders has changed."""
    if path not in _trees or not _trees[path].is_current():
        _trees[path] = _walk(path, variant)
    return _trees[path]


def _walk(path: Path, variant: str) -> _Tree:
    """All pictures in the order of their numbers, which must run from 0 without gaps. Raises DataError."""
    pattern = re.compile(rf"CLEVRTEX_{variant}_(\d{{6}})(_flat)?\.png")
    folders, pictures, label_maps = {}, {}, set()
    for folder, _, names in os.walk(path):
        folders[folder] = Path(folder).stat().st_mtime_ns
        for match in filter(None, map(pattern.fullmatch, names)):
            file, number = Path(folder, match[0]), int(match[1])
            if match[2]:
                label_maps.add(file)
            elif number in pictures:
                raise DataError(
                    f"{file}: picture {number} is there twice, also as {pictures[number]}. Remove one of them"
                )
            else:
                pictures[number] = file
    if not pictures:
        raise DataError(
            f"{path}: no CLEVRTEX_{variant}_NNNNNN.png below it. Give the folder that holds clevrtex_{variant}/. "
            f"{_remedy(variant)}"
        )
    missing = sorted(set(range(max(pictures) + 1)) - pictures.keys())
    if missing:
        raise DataError(
            f"{path}: picture {missing[0]} is missing ({len(missing)} in all of {max(pictures) + 1}). The download is "
            f"incomplete: unpack it again. {_remedy(variant)}"
        )
    return _Tree(folders, [pictures[number] for number in range(len(pictures))], frozenset(label_maps))


def _remedy(variant: str) -> str:
    name = "clevrtex" if variant == "full" else f"clevrtex_{variant}"
    return f"{SOURCE}; one like it is made by `python tools/make_data.py {name} --root ... --scenes 1000`"
