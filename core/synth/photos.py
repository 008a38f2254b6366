"""Pictures of both formats of bodies on textured ground, in the file layouts of COCO 2017 and of Pascal VOC 2012.

A body's class is its shape. Layouts and formats are the published sets', the pictures are not.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from scipy.ndimage import maximum_filter, minimum_filter

from core.data.run_length import runs_of_mask
from core.data.voc import RIM
from core.synth import clevr, textures
from core.synth.encoded import jpeg, palette_png, png
from core.synth.h5_writer import sample_rng
from core.synth.outlines import outlines
from core.synth.render import Rendering, index_of, render
from core.synth.scene import Scene
from core.synth.scene_writer import Files, Options
from core.synth.shapes import SHAPES
from core.synth.views import draw_mixed

Sizes = tuple[float, float]
REACH = 3.0
FOV = 36.0  # nearer to the bodies than CLEVR's camera
UPRIGHT = 0.3
"""The share of pictures whose height is the larger side."""
FEWEST_PIXELS = 100  # of an annotated object at 320x240
SPLIT_CYCLE = 5  # of five pictures the last is for validation


def is_for_validation(index: int) -> bool:
    return index % SPLIT_CYCLE == SPLIT_CYCLE - 1


def draw_photo(
    rng: np.random.Generator, sizes: Sizes, width: int, height: int, samples: int, fewest: int, most: int
) -> tuple[Rendering, dict[int, int]]:
    """A picture, and of each object that shows enough pixels, of which there is one, the number of its shape.

    `sizes` are the least and the greatest half side of bodies.
    """
    if rng.random() < UPRIGHT:
        width, height = height, width
    enough = FEWEST_PIXELS * width * height / (320 * 240)
    while True:
        objects, shapes = draw_mixed(rng, fewest, most, sizes, REACH)
        ground = replace(textures.material(str(rng.choice(textures.MATERIALS)), 24.0), metallic=0.0, roughness=0.85)
        camera = replace(clevr.draw_camera(rng, width, height), fov=FOV)
        scene = Scene(objects, camera, clevr.draw_lights(rng), ground)
        pixels = np.bincount(index_of(scene).ravel(), minlength=len(objects) + 1)
        seen = {number: shape for number, shape in enumerate(shapes, start=1) if pixels[number] >= enough}
        if seen:
            return render(scene, samples, seed=int(rng.integers(2**31))), seen


# ---- COCO ----

COCO_SIZES = (0.4, 0.9)
BARE, CROWDS = 0.05, 0.1
"""Shares of the pictures without any annotation, and of the annotations that stand for crowds."""
STEP = 4  # pixels between the corners of outlines
COCO_SPLITS = ("train2017", "val2017")


def category_of(shape: int) -> int:
    """The id of a shape's category; as in COCO some numbers are left out."""
    return shape + shape // 4


CATEGORIES = [
    {"supercategory": "body", "id": category_of(number), "name": name} for number, name in enumerate(SHAPES, start=1)
]


def make_coco(index: int, *, seed: int, width: int, height: int, samples: int, fewest: int, most: int) -> Files:
    """A photograph, and scenes/ with its part of the annotations."""
    rng = sample_rng(seed, "coco", index)
    drawn, seen = draw_photo(rng, COCO_SIZES, width, height, samples, fewest, most)
    if rng.random() < BARE:
        seen = {}
    split = COCO_SPLITS[is_for_validation(index)]
    name = f"{index + 1:012d}.jpg"
    picture = {"id": index + 1, "file_name": name, "height": drawn.index.shape[0], "width": drawn.index.shape[1]}
    annotations = [
        {"image_id": index + 1, "category_id": category_of(shape), **_outlined(drawn.index == number, rng)}
        for number, shape in seen.items()
    ]
    described = {"split": split, "image": picture, "annotations": annotations}
    return {
        f"images/{split}/{name}": jpeg(drawn.image),
        f"scenes/{index:06d}.json": json.dumps(described).encode(),
    }


def _outlined(mask: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """What an annotation says of where its object, or its crowd, is."""
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(rows.min())
    is_crowd = bool(rng.random() < CROWDS)
    return {
        "segmentation": {"counts": runs_of_mask(mask), "size": list(mask.shape)}
        if is_crowd
        else [polygon.ravel().tolist() for polygon in outlines(mask, STEP)],
        "area": float(mask.sum()),
        "iscrowd": int(is_crowd),
        "bbox": [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
    }


def coco_tables(root: Path, count: int, options: Options) -> Files:
    """annotations/instances_{train2017,val2017}.json."""
    tables = {split: {"images": [], "annotations": [], "categories": CATEGORIES} for split in COCO_SPLITS}
    for index in range(count):
        described = json.loads((root / f"scenes/{index:06d}.json").read_text())
        table = tables[described["split"]]
        table["images"].append(described["image"])
        for annotation in described["annotations"]:
            table["annotations"].append({"id": len(table["annotations"]) + 1, **annotation})
    return {f"annotations/instances_{split}.json": json.dumps(table).encode() for split, table in tables.items()}


# ---- Pascal VOC ----

VOC_SIZES = (0.6, 1.2)
RIM_WIDTH = 5


def make_voc(index: int, *, seed: int, width: int, height: int, samples: int, fewest: int, most: int) -> Files:
    """A photograph and its labels; objects are told apart in those for validation only, which VOC itself labelled."""
    rng = sample_rng(seed, "voc", index)
    drawn, seen = draw_photo(rng, VOC_SIZES, width, height, samples, fewest, most)
    objects, classes = np.zeros((2, *drawn.index.shape), np.uint8)
    for rank, (number, shape) in enumerate(seen.items(), start=1):
        mask = drawn.index == number
        objects[mask], classes[mask] = rank, shape
    name = voc_name(index)
    classes = np.where(_rim(objects), np.uint8(RIM), classes)
    files = {f"images/{name}.jpg": jpeg(drawn.image), f"SegmentationClassAug/{name}.png": png(classes)}
    if is_for_validation(index):
        objects = np.where(_rim(objects), np.uint8(RIM), objects)
        files[f"SegmentationObject/{name}.png"] = palette_png(objects)
        files[f"SegmentationClass/{name}.png"] = palette_png(classes)
    return files


def _rim(labels: UInt8[np.ndarray, "H W"]) -> np.ndarray:
    """Where objects meet the background or one another."""
    return maximum_filter(labels, RIM_WIDTH) != minimum_filter(labels, RIM_WIDTH)


def voc_name(index: int) -> str:
    return f"2012_{index:06d}"


def voc_lists(root: Path, count: int, options: Options) -> Files:
    """sets/{trainaug,val}.txt."""
    names: dict[str, list[str]] = {"trainaug": [], "val": []}
    for index in range(count):
        names["val" if is_for_validation(index) else "trainaug"].append(f"{voc_name(index)}\n")
    return {f"sets/{split}.txt": "".join(lines).encode() for split, lines in names.items()}
