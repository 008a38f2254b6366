"""The generated stand-ins for CelebA, COCO and Pascal VOC, tiny, read back by the readers of the real sets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.celeba import CelebA
from core.data.coco import Coco, label_planes, segmentation_mask
from core.data.polygons import fill_polygon
from core.data.voc import VOC
from core.synth.faces import draw_face
from core.synth.outlines import outlines
from core.synth.shapes import SHAPES
from tests.conftest import Runner

COUNT = 20
SMALL = ("--scenes", COUNT, "--samples", 1, "--width", 96, "--height", 72, "--seed", 4)


def make(run: Runner, root: Path, name: str, *words: object) -> Path:
    done = run("tools/make_data.py", name, "--root", root, *words)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def coco(run: Runner, tmp_path_factory) -> Path:
    return make(run, tmp_path_factory.mktemp("made"), "coco", *SMALL) / "COCO"


@pytest.fixture(scope="module")
def voc(run: Runner, tmp_path_factory) -> Path:
    return make(run, tmp_path_factory.mktemp("made"), "voc", *SMALL) / "VOC"


def described(root: Path) -> tuple[bool, str, int]:
    found = json.loads((root / "dataset.json").read_text())
    return found["generated"], found["name"], found["count"]


def test_celeba(run: Runner, tmp_path: Path) -> None:
    root = make(run, tmp_path, "celeba", "--scenes", COUNT, "--seed", 4) / "CelebA"
    assert described(root) == (True, "celeba", COUNT)
    with Image.open(root / "celeba/img_align_celeba/000007.jpg") as face:
        assert (face.format, face.mode, face.size) == ("JPEG", "RGB", (178, 218))
    sources = [CelebA(root, split) for split in ("train", "val", "test")]
    assert [len(source) for source in sources] == [16, 2, 2]
    images = torch.cat([source.read(np.arange(len(source)))["image"] for source in sources])
    assert images.shape == (COUNT, 3, 128, 128)
    assert len({image.numpy().tobytes() for image in images}) == COUNT
    assert (root / "preview.png").exists()


def test_faces_are_drawn_in_one_place() -> None:
    faces = np.stack([draw_face(np.random.default_rng(seed), 178, 218) for seed in range(40)]).astype(float)
    assert faces.shape[1:] == (218, 178, 3)
    spread = faces.std(axis=0).mean(axis=2)
    pupils = [spread[110:113, column - 1 : column + 2].mean() for column in (69, 108)]
    assert max(pupils) < 40 < spread[:20].mean(), "backgrounds differ more than what all have at the same place"
    again = draw_face(np.random.default_rng(0), 178, 218)
    np.testing.assert_array_equal(again, faces[0])


def test_coco_photographs_and_annotations(coco: Path) -> None:
    assert described(coco) == (True, "coco", COUNT)
    numbers, crowds, sizes = [], 0, set()
    for split in ("train2017", "val2017"):
        table = json.loads((coco / f"annotations/instances_{split}.json").read_text())
        entries = {entry["id"]: entry for entry in table["images"]}
        numbers += entries
        assert [category["name"] for category in table["categories"]] == list(SHAPES)
        assert max(category["id"] for category in table["categories"]) > len(SHAPES), "with gaps, as COCO's"
        assert [found["id"] for found in table["annotations"]] == list(range(1, len(table["annotations"]) + 1))
        for found in table["annotations"]:
            entry = entries[found["image_id"]]
            mask = segmentation_mask(found["segmentation"], (entry["height"], entry["width"]))
            left, top, width, height = found["bbox"]
            rows, columns = np.nonzero(mask)
            assert left <= columns.min() + 2
            assert columns.max() < left + width
            assert top <= rows.min() + 2
            assert rows.max() < top + height
            assert 0.6 < mask.sum() / found["area"] < 1.5  # a torus has its hole filled
            assert isinstance(found["segmentation"], dict) == bool(found["iscrowd"])
            crowds += found["iscrowd"]
        for entry in entries.values():
            with Image.open(coco / "images" / split / entry["file_name"]) as picture:
                assert picture.size == (entry["width"], entry["height"])
            sizes.add(picture.size)
    assert sorted(numbers) == list(range(1, COUNT + 1))
    assert crowds > 0
    assert sizes == {(96, 72), (72, 96)}


def test_coco_is_read(coco: Path) -> None:
    training, validation = Coco(coco, "train", 48), Coco(coco, "val", 48, masks=True)
    assert 12 <= len(training) <= 16
    assert len(validation) == 4
    assert training.read_varied(np.arange(3), [np.random.default_rng(k) for k in range(3)])["image"].shape[2:] == (
        48,
        48,
    )
    batch = validation.read(np.arange(4))
    assert batch["mask"].amax(dim=(1, 2)).max() >= 2
    assert torch.equal(batch["mask"] > 0, batch["semantic"] > 0)
    assert ((batch["mask"] > 0) | (batch["overlap"] == 0)).all()
    assert batch["image"].float().std() > 10


def test_voc_photographs_and_labels(voc: Path) -> None:
    assert described(voc) == (True, "voc", COUNT)
    names = [(voc / f"sets/{split}.txt").read_text().split() for split in ("trainaug", "val")]
    assert [len(found) for found in names] == [16, 4]
    for name in names[1]:
        pictures = [Image.open(voc / f"{part}/{name}.png") for part in ("SegmentationObject", "SegmentationClass")]
        assert [picture.mode for picture in pictures] == ["P", "P"]
        assert pictures[0].getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
        objects, classes = map(np.asarray, pictures)
        with Image.open(voc / f"SegmentationClassAug/{name}.png") as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.asarray(picture), classes)
        np.testing.assert_array_equal(objects == 255, classes == 255)
        np.testing.assert_array_equal(objects == 0, classes == 0)
        assert (objects == 255).any()
        assert set(np.unique(classes)) <= {0, 255, *range(1, len(SHAPES) + 1)}
        for number in set(np.unique(objects)) - {0, 255}:
            assert len(np.unique(classes[objects == number])) == 1
    assert not (voc / f"SegmentationObject/{names[0][0]}.png").exists()


def test_voc_is_read(voc: Path) -> None:
    assert len(VOC(voc, "train", 48)) == 16
    batch = VOC(voc, "val", 48, masks=True).read(np.arange(4))
    assert batch["mask"].any()
    assert torch.equal(batch["mask"] > 0, batch["semantic"] > 0)
    assert batch["overlap"].any()
    assert not (batch["mask"] * batch["overlap"]).any()


@pytest.mark.parametrize("name", ["celeba", *(pytest.param(name, marks=pytest.mark.slow) for name in ("coco", "voc"))])
def test_a_larger_count_continues_and_workers_change_nothing(run: Runner, tmp_path: Path, name: str) -> None:
    words = () if name == "celeba" else ("--samples", 1, "--width", 48, "--height", 36)
    for folder, counts in (("grown", (3, 6)), ("at-once", (6,))):
        for count in counts:
            make(run, tmp_path / folder, name, *words, "--scenes", count, "--workers", 2)
    grown, at_once = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("[!.]*") if path.is_file()}
        for root in (tmp_path / "grown", tmp_path / "at-once")
    )
    assert {"dataset.json", "preview.png"} <= {Path(name).name for name in grown}
    assert grown == at_once


def test_outlines_hold_the_pixels_of_a_mask() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        mask = rng.random((12, 15)) < 0.4
        mask[3:8, 4:11] = True
        filled = np.zeros_like(mask)
        for polygon in outlines(mask):
            filled |= fill_polygon(polygon, mask.shape)
        assert filled[mask].all()
    square = np.zeros((20, 20), bool)
    square[5:15, 5:15] = True
    (polygon,) = outlines(square, step=4)
    assert len(polygon) == 10
    assert 0.85 * 100 < fill_polygon(polygon, square.shape).sum() <= 100


def test_outlines_of_objects_that_touch_do_not_overlap() -> None:
    halves = np.zeros((20, 20), int)
    halves[4:16, 3:10], halves[4:16, 10:17] = 1, 2
    found = [
        {"category_id": 1, "segmentation": [polygon.ravel().tolist() for polygon in outlines(halves == number)]}
        for number in (1, 2)
    ]
    objects, overlap, semantic = np.moveaxis(label_planes(found, {1: 0}, halves.shape), -1, 0)
    np.testing.assert_array_equal(objects, halves)
    assert not overlap.any()
    np.testing.assert_array_equal(semantic, halves > 0)
