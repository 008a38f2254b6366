"""The VOC reader of SlotDiffusion on a small tree in the layout that it expects."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.errors import DataError
from core.data.loader import TrainingLoader, VariedSource
from core.data.voc import VOC

SIDE = 20
SIZES = {"2007_a": (20, 31), "2007_b": (28, 20), "2008_c": (20, 20)}
"""Of their own size on the shorter side, so that nothing is resized."""
_rng = np.random.default_rng(0)
PICTURES = {name: _rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in SIZES.items()}


def labels_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Objects 1 and 3 of classes 15 and 7, a rim around one, and another rim in the picture of classes."""
    objects, classes = np.zeros((2, *SIZES[name]), np.uint8)
    objects[3:9, 8:15], classes[3:9, 8:15] = 1, 15
    objects[8:12, 5:18], classes[8:12, 5:18] = 255, 255
    objects[12:18, 8:12], classes[12:18, 8:12] = 3, 7
    classes[14, 8:12] = 255
    return objects, classes


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "VOC"
    for folder in ("images", "sets", "SegmentationObject", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    for name in SIZES:
        Image.fromarray(PICTURES[name]).save(root / f"images/{name}.jpg", format="PNG")
        for labels, folder in zip(labels_of(name), ("SegmentationObject", "SegmentationClass")):
            picture = Image.fromarray(labels)
            picture.putpalette([value for entry in range(256) for value in (entry, 255 - entry, 7)])
            picture.save(root / folder / f"{name}.png")
    (root / "sets/trainaug.txt").write_text("2007_b\n2007_a\n")
    (root / "sets/val.txt").write_text("2007_a\n2008_c\n")
    return root


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_middle_of_photographs_and_their_labels(root, split):
    source = VOC(root, split, SIDE, masks=True)
    batch = source.read(np.arange(2))
    assert {key: value.dtype for key, value in batch.items()} == dict.fromkeys(batch, torch.uint8)
    np.testing.assert_array_equal(batch["image"][0].permute(1, 2, 0), PICTURES["2007_a"][:, 5:25])
    np.testing.assert_array_equal(batch["image"][1].permute(1, 2, 0), PICTURES["2008_c"])
    objects, classes = (labels[:, 5:25] for labels in labels_of("2007_a"))
    rim = (objects == 255) | (classes == 255)
    np.testing.assert_array_equal(batch["overlap"][0], rim)
    np.testing.assert_array_equal(batch["mask"][0], np.where(rim, 0, (objects > 0) * 1 + (objects == 3)))
    np.testing.assert_array_equal(batch["semantic"][0], np.where(rim, 0, (classes == 7) * 1 + (classes == 15) * 2))
    assert set(batch["mask"][0].unique().tolist()) == {0, 1, 2}


def test_training_mirrors_and_shifts(root):
    source = VOC(root, "train", SIDE)
    assert isinstance(source, VariedSource)
    assert [path.stem for path in source.sources] == ["2007_b", "2007_a"]
    found = {0: set(), 1: set()}
    for seed in range(200):
        batch = source.read_varied(np.array([0, 1]), [np.random.default_rng((seed, k)) for k in range(2)])
        for index, image in enumerate(batch["image"].permute(0, 2, 3, 1).numpy()):
            found[index].add(image.tobytes())
    for index, name in enumerate(("2007_b", "2007_a")):
        picture = PICTURES[name]
        height, width = SIZES[name]
        cuts = [picture[top:, left:][:SIDE, :SIDE] for top, left in np.ndindex(height - SIDE + 1, width - SIDE + 1)]
        assert found[index] == {cut.tobytes() for one in cuts for cut in (one, one[:, ::-1])}
    assert torch.equal(source.read(np.array([1]))["image"], VOC(root, "val", SIDE).read(np.array([0]))["image"])


def test_labels_follow_their_picture(root):
    source = VOC(root, "train", SIDE, masks=True)
    batch = source.read_varied(np.array([1] * 20), [np.random.default_rng(seed) for seed in range(20)])
    rim_of = {}
    picture, (objects, classes) = PICTURES["2007_a"], labels_of("2007_a")
    for left in range(12):
        window = np.s_[:, left : left + SIDE]
        for step in (1, -1):
            rim = ((objects == 255) | (classes == 255))[window][:, ::step]
            rim_of[picture[window][:, ::step].tobytes()] = rim
    for image, overlap in zip(batch["image"].permute(0, 2, 3, 1).numpy(), batch["overlap"].numpy()):
        np.testing.assert_array_equal(overlap, rim_of[image.tobytes()])


def test_an_epoch_is_the_same_whatever_the_number_of_workers(root):
    batches = []
    for num_workers in (0, 2):
        source = VOC(root, "train", SIDE)
        loader = TrainingLoader(source, 2, seed=3, device=torch.device("cpu"), num_workers=num_workers)
        stream = loader.batches(0)
        batches.append(torch.cat([next(stream)["image"] for _ in range(3)]))
    assert torch.equal(*batches)


def test_what_is_wrong_is_named(root):
    with pytest.raises(ValueError, match="VOC split 'trainaug' is not one of train, val, test"):
        VOC(root, "trainaug")
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(root / "SegmentationClass/2008_c.png")
    with pytest.raises(DataError, match=r"SegmentationClass/2008_c\.png: is 4x3, its photograph 20x20"):
        VOC(root, "val", SIDE, masks=True).read(np.array([1]))
    (root / "SegmentationObject/2007_b.png").unlink()
    with pytest.raises(DataError, match=r"Object/2007_b\.png: no such file \(1 of the 2 .*make_data\.py voc"):
        VOC(root, "train", masks=True)
    assert len(VOC(root, "train")) == 2
    (root / "images/2007_a.jpg").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"2007_a\.jpg: cannot be read as a picture"):
        VOC(root, "val")
    (root / "sets/val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"val\.txt: names no pictures"):
        VOC(root, "val")
    with pytest.raises(DataError, match=r"trainaug\.txt: cannot be read .* ImageSets/Segmentation/ becomes sets/"):
        VOC(root / "elsewhere", "train")
