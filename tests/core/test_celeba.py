"""The CelebA reader on a small tree in torchvision's layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from core.data.celeba import CelebA
from core.data.errors import DataError
from core.data.framing import Framing
from core.data.loader import BatchSource, TrainingLoader

COUNT, WIDTH, HEIGHT, SIDE = 12, 178, 218, 128
PARTS = [0, 0, 0, 2, 1, 0, 1, 0, 0, 2, 2, 2]
Y, X = np.mgrid[:HEIGHT, :WIDTH]


def picture_of(number: int) -> np.ndarray:
    """Stripes so narrow that antialiasing would blur them; their shade tells the number."""
    stripes = 20 * ((X // 2 + Y // 3) % 2)
    return np.stack([stripes + 15 * number, stripes + 10, 255 - stripes], axis=-1).astype(np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "CelebA" / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for number in range(COUNT):
        Image.fromarray(picture_of(number)).save(folder / f"{number + 1:06d}.jpg", format="PNG")
    lines = [f"{number + 1:06d}.jpg {part}" for number, part in enumerate(PARTS)]
    (folder.parent / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "CelebA"


@pytest.mark.parametrize(("split", "part"), [("train", 0), ("val", 1), ("test", 2)])
def test_faces_of_a_split_are_squashed_without_antialiasing(root, split, part):
    source = CelebA(root, split)
    assert isinstance(source, BatchSource)
    numbers = [number for number, found in enumerate(PARTS) if found == part]
    assert [int(path.stem) - 1 for path in source.sources] == numbers
    image = source.read(np.arange(len(source)))["image"]
    assert (image.dtype, image.shape) == (torch.uint8, (len(numbers), 3, SIDE, SIDE))
    assert image.is_contiguous(memory_format=torch.channels_last)
    whole = torch.from_numpy(np.stack([picture_of(number) for number in numbers])).permute(0, 3, 1, 2).float()
    expected = functional.interpolate(whole, (SIDE, SIDE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(image.float(), expected, atol=0.51, rtol=0)


def test_the_folder_itself_is_a_root_too(root):
    inner, outer = CelebA(root / "celeba", "val", Framing(size=(9, 7))), CelebA(root, "val", Framing(size=(9, 7)))
    assert inner.sources == outer.sources
    image = inner.read(np.array([1, 0, 1]))["image"]
    assert image.shape == (3, 3, 9, 7)
    assert torch.equal(image[0], image[2])
    assert not torch.equal(image[0], image[1])


def test_it_can_be_trained_on(root):
    loader = TrainingLoader(
        CelebA(root, "train", Framing(size=(8, 8))), 2, seed=0, device=torch.device("cpu"), num_workers=1
    )
    assert loader.batches_per_epoch == 3
    batch = next(loader.batches(0))
    assert (batch["image"].dtype, batch["image"].shape) == (torch.float32, (2, 3, 8, 8))


def test_what_is_wrong_is_named(root):
    with pytest.raises(ValueError, match="CelebA split 'valid' is not one of train, val, test"):
        CelebA(root, "valid")
    with pytest.raises(DataError, match="celeba: has no label maps"):
        CelebA(root, "val").open_labels(root)
    (root / "celeba/img_align_celeba/000005.jpg").unlink()
    with pytest.raises(DataError, match=r"000005\.jpg: no such file \(1 of the 2 .*make_data\.py celeba"):
        CelebA(root, "val")
    (root / "celeba/img_align_celeba/000004.jpg").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"000004\.jpg: cannot be read as a picture"):
        CelebA(root, "test").read(np.array([0]))
    partition = root / "celeba/list_eval_partition.txt"
    partition.write_text("000001.jpg 0\n000002.jpg 7\n")
    with pytest.raises(DataError, match=r"partition\.txt: line 2 is '000002\.jpg 7', expected .* 0, 1 or 2"):
        CelebA(root, "train")
    partition.write_text("000001.jpg 0\n")
    with pytest.raises(DataError, match=r"partition\.txt: names no pictures of split 'test'"):
        CelebA(root, "test")
    with pytest.raises(DataError, match=r"list_eval_partition\.txt: cannot be read .* the folder that holds celeba/"):
        CelebA(root / "elsewhere", "train")
