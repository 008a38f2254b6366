"""ClevrTex as SlotDiffusion reads it: the middle 192x192 pixels, no antialiasing, objects numbered without gaps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from core.data.clevrtex import ClevrTex
from core.data.errors import DataError
from core.data.framing import Framing

COUNT, WIDTH, HEIGHT, SIDE = 20, 320, 240, 128
AS_SLOTDIFFUSION = Framing(crop=0.8, size=(SIDE, SIDE), without_gaps=True)
_rng = np.random.default_rng(0)
PICTURE = _rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def labels_of(number: int) -> np.ndarray:
    """Indices 0, 3 and 200 in the middle, and as many further ones as `number` says in a corner that is cut off."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[60:100, 100:140], labels[150:180, 180:220] = 200, 3
    labels[0, :number] = np.arange(10, 10 + number)
    return labels


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "CLEVRTex" / "clevrtex_full" / "0"
    folder.mkdir(parents=True)
    for number in range(COUNT):
        picture = PICTURE if number == 1 else np.zeros_like(PICTURE)
        Image.fromarray(picture).save(folder / f"CLEVRTEX_full_{number:06d}.png")
        Image.fromarray(labels_of(number)).save(folder / f"CLEVRTEX_full_{number:06d}_flat.png")
    return tmp_path / "CLEVRTex"


@pytest.mark.parametrize(("split", "first", "count"), [("test", 0, 2), ("val", 2, 2), ("train", 4, 16)])
def test_splits_are_tenths_of_the_numbers(root, split, first, count):
    source = ClevrTex(root, "full", split, AS_SLOTDIFFUSION)
    assert [path.stem for path in source.sources] == [f"CLEVRTEX_full_{first + k:06d}" for k in range(count)]


def test_the_middle_is_resized_as_torch_does_without_antialiasing(root):
    batch = ClevrTex(root, "full", "test", AS_SLOTDIFFUSION, masks=True).read(np.array([1]))
    cut = torch.from_numpy(PICTURE[24:216, 64:256].copy()).permute(2, 0, 1)[None].float()
    expected = functional.interpolate(cut, (SIDE, SIDE), mode="bilinear", align_corners=False)
    assert batch["image"].dtype == torch.uint8
    torch.testing.assert_close(batch["image"].float(), expected, atol=0.51, rtol=0)
    labels = torch.from_numpy(labels_of(1)[24:216, 64:256].copy())[None, None]
    picked = functional.interpolate(labels, (SIDE, SIDE), mode="nearest")[:, 0]
    assert batch["mask"].dtype == torch.uint8
    np.testing.assert_array_equal(batch["mask"], (picked == 3) * 1 + (picked == 200) * 2)


def test_labels_are_kept_unless_asked_for_without_gaps(root):
    mask = ClevrTex(root, "full", "test", Framing(crop=0.8, size=(SIDE, SIDE)), masks=True).read(np.array([0]))["mask"]
    assert mask.unique().tolist() == [0, 3, 200]


def test_crowded_pictures_are_left_out_of_their_split(root):
    source = ClevrTex(root, "full", "train", AS_SLOTDIFFUSION, masks=True, most_entities=9)
    assert [path.stem[-2:] for path in source.sources] == ["04", "05", "06"]  # as many indices beside the three
    assert source.read(np.arange(3))["mask"].shape == (3, SIDE, SIDE)
    assert len(ClevrTex(root, "full", "test", AS_SLOTDIFFUSION, most_entities=9)) == 2
    with pytest.raises(DataError, match=r"every picture .* more than 5 entities, the fewest are 7"):
        ClevrTex(root, "full", "train", AS_SLOTDIFFUSION, most_entities=5)
