"""The COCO reader, its polygons and run lengths, on a small tree in the published layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline
from PIL import Image
from torch.nn import functional

from core.data.coco import Coco, label_planes, segmentation_mask
from core.data.errors import DataError
from core.data.loader import BatchSource, TrainingLoader, VariedSource
from core.data.polygons import fill_polygon
from core.data.run_length import encode_run_lengths, mask_of_runs, runs_of_mask

SIDE = 28
SIZES = {9: (40, 61), 4: (57, 33), 7: (30, 30), 5: (35, 70)}
"""Height and width by the number of the picture; number 7 has no annotation."""
CATEGORIES = [{"id": 3, "name": "car"}, {"id": 90, "name": "brush"}, {"id": 1, "name": "person"}]
_rng = np.random.default_rng(0)
PICTURES = {number: _rng.integers(0, 256, (*size, 3), dtype=np.uint8) for number, size in SIZES.items()}


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def annotation(number: int, category: int, segmentation, **more) -> dict:
    return {"image_id": number, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


HALF = np.zeros(SIZES[9], bool)
HALF[20:] = True
ANNOTATIONS = [
    annotation(9, 1, [box(0, 0, 61, 40)], ignore=1),
    annotation(9, 90, [box(5, 5, 25, 35), box(40, 5, 45, 35)]),
    annotation(4, 3, [box(0, 0, 33, 57)]),
    annotation(9, 3, {"counts": runs_of_mask(HALF), "size": list(SIZES[9])}, iscrowd=1),
    annotation(9, 1, {"counts": encode_run_lengths(HALF), "size": list(SIZES[9])}),
    annotation(5, 3, [box(0, 0, 10, 10)]),
]


def objects_of_9() -> np.ndarray:
    """Objects, overlap and classes of picture 9, drawn by hand."""
    first = np.zeros(SIZES[9], bool)
    first[5:35, 5:25] = first[5:35, 40:45] = True
    return np.stack([np.where(HALF, 2, first), first & HALF, np.where(HALF, 1, 3 * first)], axis=-1).astype(np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "COCO"
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        folder = root / "images" / split
        folder.mkdir(parents=True)
        images = []
        for number, (height, width) in SIZES.items():
            name = f"{number:012d}.jpg"
            Image.fromarray(PICTURES[number]).save(folder / name, format="PNG")
            images.append({"id": number, "file_name": name, "height": height, "width": width})
        table = {"images": images, "annotations": ANNOTATIONS, "categories": CATEGORIES}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(table))
    return root


def resized(picture: np.ndarray, mode: str) -> np.ndarray:
    """[h, w, 3] float with a shorter side of `SIDE`, by torch."""
    factor = SIDE / min(picture.shape[:2])
    size = tuple(int(side * factor + 0.5) for side in picture.shape[:2])
    whole = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    options = {"align_corners": False} if mode == "bilinear" else {}
    return functional.interpolate(whole, size, mode=mode, **options)[0].permute(1, 2, 0).numpy()


def middle(picture: np.ndarray) -> np.ndarray:
    top, left = ((side - SIDE) // 2 for side in picture.shape[:2])
    return picture[top : top + SIDE, left : left + SIDE]


@pytest.mark.parametrize(("split", "numbers"), [("train", [4, 5, 9]), ("val", [4, 5, 7, 9]), ("test", [4, 5, 7, 9])])
def test_the_middle_of_every_photograph(root, split, numbers):
    source = Coco(root, split, SIDE)
    assert isinstance(source, BatchSource)
    assert source.image_size == (SIDE, SIDE)
    assert [int(path.stem) for path in source.sources] == numbers, "in training none without annotations"
    batch = source.read(np.arange(len(source)))
    assert list(batch) == ["image"]
    image = batch["image"]
    assert (image.dtype, image.shape) == (torch.uint8, (len(numbers), 3, SIDE, SIDE))
    assert image.is_contiguous(memory_format=torch.channels_last)
    expected = np.stack([middle(resized(PICTURES[number], "bilinear")) for number in numbers])
    np.testing.assert_allclose(image.permute(0, 2, 3, 1), expected, atol=0.51)
    assert torch.equal(source.read(np.array([1, 0]))["image"], image[[1, 0]])
    assert torch.equal(source.read(np.array([-1]))["image"], image[-1:])
    with pytest.raises(IndexError):
        source.read(np.array([len(numbers)]))


def test_objects_overlap_and_classes(root):
    batch = Coco(root, "val", SIDE, masks=True).read(np.arange(4))
    assert {key: value.dtype for key, value in batch.items()} == dict.fromkeys(batch, torch.uint8)
    mask, overlap, semantic = np.moveaxis(middle(resized(objects_of_9(), "nearest")), -1, 0)
    np.testing.assert_array_equal(batch["mask"][3], mask)
    np.testing.assert_array_equal(batch["overlap"][3], overlap)
    np.testing.assert_array_equal(batch["semantic"][3], np.array([0, 1, 9, 2])[semantic.astype(int)])
    assert overlap.any()
    assert not any(batch[key][2].any() for key in ("mask", "overlap", "semantic")), "number 7 has no annotation"
    assert (batch["mask"][0] == 1).all(), "all of number 4 is one object, and no background"
    assert (batch["semantic"][0] == 1).all()
    assert not batch["mask"][1].any(), "the object of number 5 is cut off"
    original = Coco(root, "val", SIDE, masks=True, as_original=True).read(np.arange(4))
    assert not original["mask"][0].any()
    assert torch.equal(original["mask"][3], batch["mask"][3])


def test_half_of_the_training_pictures_are_mirrored_and_none_is_shifted(root):
    source = Coco(root, "train", SIDE, masks=True)
    assert isinstance(source, VariedSource)
    indices = np.arange(60) % 3
    fixed = source.read(indices)
    varied = source.read_varied(indices, [np.random.default_rng(seed) for seed in range(60)])
    flips = [bool(np.random.default_rng(seed).random() < 0.5) for seed in range(60)]
    assert 15 < sum(flips) < 45
    for key, values in fixed.items():
        expected = torch.stack([value.flip(-1) if flip else value for value, flip in zip(values, flips)])
        assert torch.equal(varied[key], expected)


def test_training_meets_both_ways_round(root):
    loader = TrainingLoader(Coco(root, "train", SIDE), 3, seed=0, device=torch.device("cpu"), num_workers=1)
    batches = loader.batches(0)
    seen = {next(batches)["image"].sum(dim=(1, 2)).numpy().tobytes() for _ in range(6)}
    assert len(seen) > 2
    with pytest.raises(ValueError, match="resident"):
        TrainingLoader(Coco(root, "train", SIDE), 2, seed=0, device=torch.device("cpu"), resident=True)


def test_polygons_hold_the_pixels_whose_centres_they_hold():
    assert fill_polygon(np.array(box(1, 2, 4, 3), float).reshape(-1, 2), (5, 6)).nonzero()[1].tolist() == [1, 2, 3]
    assert fill_polygon(np.array(box(-9, -9, 99, 99), float).reshape(-1, 2), (5, 6)).all()
    assert not fill_polygon(np.array(box(7, 1, 9, 3), float).reshape(-1, 2), (5, 6)).any()
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:24, :32] + 0.5
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))  # a star: its sides do not cross
        radii = rng.uniform(3, 15, 12)
        corners = np.stack([16 + radii * np.cos(angles), 12 + radii * np.sin(angles)], axis=1)
        expected = Outline(corners).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(24, 32)
        np.testing.assert_array_equal(fill_polygon(corners, (24, 32)), expected)


def test_run_lengths_plain_and_compressed():
    mask = np.random.default_rng(2).random((9, 5)) < 0.5
    for counts in (runs_of_mask(mask), encode_run_lengths(mask)):
        np.testing.assert_array_equal(segmentation_mask({"counts": counts, "size": [9, 5]}, (9, 5)), mask)
    assert mask_of_runs([2, 3, 1], (3, 2)).T.ravel().tolist() == [False, False, True, True, True, False]
    with pytest.raises(ValueError, match="the runs cover 5 pixels, not 3 x 2"):
        mask_of_runs([2, 3], (3, 2))
    with pytest.raises(ValueError, match="run lengths of 9 x 5 pixels in a picture of 5 x 9"):
        segmentation_mask({"counts": [45], "size": [9, 5]}, (5, 9))
    with pytest.raises(ValueError, match="256 objects are more than 255"):
        label_planes([annotation(1, 1, [])] * 256, {1: 0}, (2, 2))


def test_what_is_wrong_is_named(root):
    with pytest.raises(ValueError, match="COCO split 'val2017' is not one of train, val, test"):
        Coco(root, "val2017")
    table_path = root / "annotations/instances_val2017.json"
    table = json.loads(table_path.read_text())
    for broken, message in (
        (
            table | {"annotations": [annotation(9, 2, [box(0, 0, 9, 9)])]},
            r"000009\.jpg cannot be drawn \(KeyError\(2\)",
        ),
        (table | {"annotations": [annotation(9, 1, [[1, 2, 3]])]}, r"000009\.jpg cannot be drawn \(ValueError"),
        ({"images": []}, r"instances_val2017\.json: not the annotations of COCO \(KeyError\('annotations'\)\)"),
        ([], r"instances_val2017\.json: not the annotations of COCO, but a list"),
        (table | {"images": [], "annotations": []}, r"lists no photographs\. .*make_data\.py coco"),
    ):
        table_path.write_text(json.dumps(broken))
        with pytest.raises(DataError, match=message):
            Coco(root, "val", SIDE, masks=True).read(np.arange(4))
    table["images"][0]["width"] += 9
    table_path.write_text(json.dumps(table))
    with pytest.raises(DataError, match=r"000009\.jpg: is 61x40, expected 70x40 as its annotations say"):
        Coco(root, "val", SIDE).read(np.array([0]))
    table_path.write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        Coco(root, "val")
    table_path.unlink()
    with pytest.raises(DataError, match=r"instances_val2017\.json: cannot be read \(No such file"):
        Coco(root, "val")
    (root / "images/train2017/000000000005.jpg").unlink()
    with pytest.raises(DataError, match=r"000000000005\.jpg: no such file \(1 of the 3 that are listed"):
        Coco(root, "train")
