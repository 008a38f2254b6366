"""The reader of CLEVR with masks on a small tree in the layout of the ClevrTex benchmark."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.data.clevr import Clevr
from core.data.errors import DataError
from core.data.framing import Framing

COUNT, HEIGHT, WIDTH, NUM_ENTITIES = 20, 15, 24, 11
# The central square of 0.8 * 15 pixels.
BOX = (slice(1, 13), slice(6, 18))
_rng = np.random.default_rng(0)
PICTURES = _rng.integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
LABELS = _rng.integers(0, 4, (COUNT, HEIGHT, WIDTH), dtype=np.uint8)
NUM_OBJECTS = np.array([3, 7, 6, 8, 10, 3, 6, 7, 6, 9, 3, 8, 7, 6, 5, 4, 10, 9, 7, 6])
WHOLE = Framing()


def write_scene(path: Path, number: int, **changes: np.ndarray) -> None:
    arrays = {
        "image": PICTURES[number],
        "mask": ((LABELS[number] == np.arange(NUM_ENTITIES)[:, None, None]) * np.uint8(255))[..., None],
        "visibility": (np.arange(NUM_ENTITIES) <= NUM_OBJECTS[number]).astype(np.float32),
        "rotation": np.zeros(NUM_ENTITIES, np.float32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **(arrays | changes))


def paths(count: int = COUNT) -> dict[str, str]:
    return {str(number): f"{number // 8}/{number}.npz" for number in range(count)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path) -> Path:
    """Split by shares: 3 scenes for test, 3 for val, 14 for train."""
    folder = tmp_path / "clevr_with_masks"
    for number, path in paths().items():
        write_scene(folder / path, int(number))
    (folder / "manifest_ind.json").write_text(json.dumps(paths()))
    (folder / "dataset.json").write_text(json.dumps({"generated": True, "count": COUNT}))
    return folder


def everything(source: Clevr) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in source.read(np.arange(len(source))).items()}


@pytest.mark.parametrize(("split", "rows"), [("test", range(3)), ("val", range(3, 6)), ("train", range(6, 20))])
def test_splits_of_a_generated_set(root, split, rows):
    batch = everything(Clevr(root, split, WHOLE))
    np.testing.assert_array_equal(batch["image"], PICTURES[rows].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch["mask"], LABELS[rows])
    np.testing.assert_array_equal(batch["visible"], np.arange(NUM_ENTITIES) <= NUM_OBJECTS[rows, None])


def test_the_first_15_000_scenes_of_the_published_set_are_for_test(root):
    (root / "dataset.json").unlink()
    assert len(Clevr(root, "test")) == COUNT
    with pytest.raises(DataError, match=r"holds 20 pictures, none of them in split 'val'\. Convert .*convert_clevr"):
        Clevr(root, "val")


def test_without_manifest_files_go_by_the_numbers_in_their_names(root):
    (root / "manifest_ind.json").unlink()
    (root / "0" / "3.npz").rename(root / "scene_3.npz")
    (root / "0" / "notes.npz").write_bytes(b"")
    assert [path.name for path in Clevr(root, "val").sources] == ["scene_3.npz", "4.npz", "5.npz"]


def test_pictures_are_cut_and_resized_as_in_the_benchmark(root):
    batch = everything(Clevr(root, "val"))
    assert batch["image"].shape == (3, 3, 128, 128)
    cut = torch.from_numpy(PICTURES[3:6][:, *BOX]).permute(0, 3, 1, 2).float()
    expected = F.interpolate(cut, (128, 128), mode="bilinear", align_corners=False)
    assert np.abs(batch["image"] - expected.numpy()).max() <= 0.501
    labels = F.interpolate(torch.from_numpy(LABELS[3:6][:, None, *BOX]), (128, 128), mode="nearest")[:, 0]
    np.testing.assert_array_equal(batch["mask"], labels)


def test_flags_of_framing_are_heeded(root):
    batch = everything(Clevr(root, "test", Framing(crop=0.8, flip="rows", max_objects=2)))
    np.testing.assert_array_equal(batch["image"], PICTURES[:3][:, *BOX][:, ::-1].transpose(0, 3, 1, 2))
    labels = LABELS[:3][:, *BOX][:, ::-1]
    np.testing.assert_array_equal(batch["mask"], np.where(labels > 2, 0, labels))
    assert batch["visible"].sum(axis=1).tolist() == [3, 3, 3]


def test_masks_are_read_only_if_asked_for(root):
    for path in root.rglob("*.npz"):
        number = int(path.stem)
        np.savez(path, image=PICTURES[number])
    batch = everything(Clevr(root, "train", WHOLE, masks=False))
    assert list(batch) == ["image"]
    np.testing.assert_array_equal(batch["image"], PICTURES[6:].transpose(0, 3, 1, 2))
    with pytest.raises(DataError, match=r"6\.npz: cannot be read as a CLEVR scene .*mask is not a file"):
        Clevr(root, "train", WHOLE, masks=True).read(np.array([0]))


def test_clevr6_holds_scenes_of_at_most_six_objects(root):
    few = [number for number in range(6, 20) if NUM_OBJECTS[number] <= 6]
    source = Clevr(root, "train", WHOLE, most_objects=6)
    assert [int(path.stem) for path in source.sources] == few
    np.testing.assert_array_equal(everything(source)["mask"], LABELS[few])
    kept = json.loads((root.parent / "clevr6_train_index.json").read_text())
    assert kept["indices"] == [number - 6 for number in few]
    with pytest.raises(DataError, match=r"no scene of split 'val' has at most 2 objects"):
        Clevr(root, "val", most_objects=2)


def test_the_list_of_clevr6_is_used_and_follows_the_data(root):
    index = root.parent / "clevr6_test_index.json"
    assert len(Clevr(root, "test", WHOLE, most_objects=6)) == 2
    kept = json.loads(index.read_text())
    index.write_text(json.dumps(kept | {"indices": [1]}))
    assert [path.stem for path in Clevr(root, "test", WHOLE, most_objects=6).sources] == ["1"]
    write_scene(root / "0/0.npz", 0, visibility=np.ones(NUM_ENTITIES))
    os.utime(root / "0/0.npz", ns=(1, 1))
    assert [path.stem for path in Clevr(root, "test", WHOLE, most_objects=6).sources] == ["2"]
    for damaged in ("[0, 1]", "{", json.dumps({"data": json.loads(index.read_text())["data"], "indices": [99]})):
        index.write_text(damaged)
        assert [path.stem for path in Clevr(root, "test", WHOLE, most_objects=6).sources] == ["2"]
        assert json.loads(index.read_text())["indices"] == [2]


def test_the_cache_follows_the_scenes(root):
    before = everything(Clevr(root, "test", WHOLE))
    write_scene(root / "0/1.npz", 1, image=255 - PICTURES[1])
    after = everything(Clevr(root, "test", WHOLE))
    np.testing.assert_array_equal(after["image"][1], 255 - before["image"][1])
    np.testing.assert_array_equal(after["image"][[0, 2]], before["image"][[0, 2]])


def test_damage_anywhere_in_a_scene_is_named(root, cache):
    path = root / "0/1.npz"
    whole = path.read_bytes()
    for position in range(60, len(whole) - 400, 97):
        path.write_bytes(whole[:position] + bytes(byte ^ 0xFF for byte in whole[position : position + 20]))
        with pytest.raises(DataError, match=r"0/1\.npz: cannot be read as a CLEVR scene .*make_data\.py clevr --root"):
            everything(Clevr(root, "test", WHOLE))
    path.unlink()
    with pytest.raises(DataError, match=r"0/1\.npz: the manifest names it, but it is not there\. Convert"):
        everything(Clevr(root, "test", WHOLE))
    assert not list(cache.glob("*.partial"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": PICTURES[0].astype(np.float32)}, r"image is float32 \[15, 24, 3\], expected uint8"),
        ({"mask": np.zeros((NUM_ENTITIES, HEIGHT, WIDTH), np.uint8)}, r"mask is uint8 \[11, 15, 24\], expected uint8"),
        ({"image": PICTURES[0][1:]}, r"expected 15 x 24 x 3|becomes 14 x 24 x 3"),
        ({"visibility": np.ones(5)}, r"becomes 5, expected 11"),
    ],
)
def test_scenes_of_another_form(root, changes, said):
    write_scene(root / "0/1.npz", 1, **changes)
    with pytest.raises(DataError, match=rf"0/1\.npz: .*({said})"):
        everything(Clevr(root, "test", WHOLE))


def test_damaged_tables_and_unknown_splits(root, tmp_path):
    with pytest.raises(ValueError, match="CLEVR split 'training' is not one of test, val, train"):
        Clevr(root, "training")
    with pytest.raises(DataError, match=r"nowhere: no manifest_ind\.json and no \.npz file below it\. Convert"):
        Clevr(tmp_path / "nowhere")
    (root / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match=r"dataset\.json: expected the number of scenes as 'count' .*make_data\.py"):
        Clevr(root)
    (root / "manifest_ind.json").write_text("[1]")
    with pytest.raises(DataError, match=r"manifest_ind\.json: not a table of indices and paths"):
        Clevr(root)
