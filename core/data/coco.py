"""COCO 2017 on disk (Lin et al. 2014): photographs whose objects are outlined one by one.

`<root>/images/{train2017,val2017}/NNNNNNNNNNNN.jpg`, and `<root>/annotations/instances_{train2017,val2017}.json` with
polygons, or run lengths, in pixels of the photographs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from core.data.errors import DataError
from core.data.listed_files import listed_files
from core.data.photo_reader import PhotoReader
from core.data.polygons import fill_polygon
from core.data.run_length import decode_run_lengths, mask_of_runs

SPLITS = {"train": "train2017", "val": "val2017", "test": "val2017"}
"""The annotations of COCO's own test split are not published."""
MOST_OBJECTS = 255
REMEDY = (
    "Unpack {train,val}2017.zip into images/ and annotations_trainval2017.zip from https://cocodataset.org beside it; "
    "a set like it is made by `python tools/make_data.py coco --root ... --scenes 1000`"
)
Annotation = Mapping[str, Any]


class Coco(PhotoReader):
    """Squares of `side` pixels out of the photographs of one split, see PhotoReader.

    In training photographs without any annotation are left out. Crowds and what is to be ignored count as background;
    where objects overlap, the one annotated last is in front, and pixels are not scored.
    """

    def __init__(
        self, root: str | Path, split: str, side: int = 224, *, masks: bool = False, as_original: bool = False
    ):
        if split not in SPLITS:
            raise ValueError(f"COCO split {split!r} is not one of {', '.join(SPLITS)}")
        root = Path(root)
        self.table_path = root / "annotations" / f"instances_{SPLITS[split]}.json"
        table = _read_table(self.table_path)
        try:
            entries = {entry["id"]: entry for entry in table["images"]}
            numbers = sorted({found["image_id"] for found in table["annotations"]} if split == "train" else entries)
            names = [entries[number]["file_name"] for number in numbers]
            sizes = np.array([(entries[number]["height"], entries[number]["width"]) for number in numbers])
            self._annotations = _by_picture(table["annotations"], numbers) if masks else []
            self._classes = {number: rank for rank, number in enumerate(sorted(c["id"] for c in table["categories"]))}
        except (KeyError, TypeError) as error:
            raise DataError(f"{self.table_path}: not the annotations of COCO ({error!r}). {REMEDY}") from error
        if not names:
            raise DataError(f"{self.table_path}: lists no photographs. {REMEDY}")
        sources = listed_files(root / "images" / SPLITS[split], names, REMEDY)
        super().__init__(
            root, SPLITS[split], sources, [self.table_path], sizes, side, masks=masks, as_original=as_original
        )

    def open_labels(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        height, width = map(int, self.sizes[index])
        try:
            return label_planes(self._annotations[index], self._classes, (height, width))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.table_path}: annotations of {self.sources[index].name} cannot be drawn ({error!r}). {REMEDY}"
            ) from error


def label_planes(
    annotations: Sequence[Annotation], classes: Mapping[int, int], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """Objects 1, 2, ... in the order of `annotations`, whether a pixel is covered twice, and 1 + the object's class.

    `classes` are ranks of categories by their ids; `size` is height and width of the photograph. ValueError for
    outlines that do not fit, or for more objects than a byte can tell apart.
    """
    drawn = [found for found in annotations if not (found.get("ignore") or found.get("iscrowd"))]
    if len(drawn) > MOST_OBJECTS:
        raise ValueError(f"{len(drawn)} objects are more than {MOST_OBJECTS}")
    planes = np.zeros((*size, 3), np.uint8)
    objects, overlap, semantic = np.moveaxis(planes, -1, 0)
    for number, found in enumerate(drawn, start=1):
        mask = segmentation_mask(found["segmentation"], size)
        overlap[mask & (objects > 0)] = 1
        objects[mask] = number
        semantic[mask] = 1 + classes[found["category_id"]]
    return planes


def segmentation_mask(segmentation: Sequence | Mapping, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Of polygons [x, y, x, y, ...], or of run lengths, plain or compressed. ValueError if they do not fit."""
    if isinstance(segmentation, Mapping):
        counts, of = segmentation["counts"], tuple(segmentation["size"])
        if of != size:
            raise ValueError(f"run lengths of {of[0]} x {of[1]} pixels in a picture of {size[0]} x {size[1]}")
        return decode_run_lengths(counts, size) if isinstance(counts, str) else mask_of_runs(counts, size)
    mask = np.zeros(size, bool)
    for polygon in segmentation:
        mask |= fill_polygon(np.array(polygon, float).reshape(-1, 2), size)
    return mask


def _read_table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {REMEDY}") from error
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error}). Unpack it again. {REMEDY}") from error
    if not isinstance(table, dict):
        raise DataError(f"{path}: not the annotations of COCO, but a {type(table).__name__}. {REMEDY}")
    return table


def _by_picture(annotations: Sequence[Annotation], numbers: Sequence[int]) -> list[list[Annotation]]:
    """The annotations of each picture of `numbers`, in the order of the file."""
    found: dict[int, list[Annotation]] = {number: [] for number in numbers}
    for annotation in annotations:
        found[annotation["image_id"]].append(annotation)
    return list(found.values())
