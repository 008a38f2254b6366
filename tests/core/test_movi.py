"""The MOVi reader on small trees in both published layouts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.errors import DataError
from core.data.label_maps import numbered_without_gaps
from core.data.loader import BatchSource, TrainingLoader, to_resident
from core.data.movi import Movi
from core.data.video import resize_frames, resize_labels
from tests.video_files import smooth_frames, write_frames

LENGTH, SIDE = 8, 24
SIZE = (12, 12)
COUNT = 3
VIDEOS = [smooth_frames(LENGTH, SIDE, SIDE, seed) for seed in range(COUNT)]
_rng = np.random.default_rng(0)
LABELS = [_rng.choice(np.array([0, 2, 3, 7 + v, 200], np.uint8), (LENGTH, SIDE, SIDE)) for v in range(COUNT)]
NUM_OBJECTS = 10
OBJECT_MASKS = _rng.choice(np.array([0, 0, 0, 1, 254, 255], np.uint8), (COUNT, LENGTH, NUM_OBJECTS, SIDE, SIDE))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path) -> Path:
    for folder in ("MOVi-E/train", "MOVi-E/validation", "MOVi-E/test"):
        for number, (frames, labels) in enumerate(zip(VIDEOS, LABELS)):
            video = tmp_path / folder / f"{number:08d}"
            write_frames(video, frames, "{:06d}.jpg", file_format="PNG")
            write_frames(video, labels, "{:06d}_mask.png")
    for folder in ("MOVi-Tex/train", "MOVi-Tex/val", "MOVi-Tex/test"):
        for number, (frames, masks) in enumerate(zip(VIDEOS, OBJECT_MASKS)):
            video = tmp_path / folder / f"{number:08d}"
            write_frames(video, frames, "{:08d}_image.png")
            for index in range(0 if folder.endswith("val") else NUM_OBJECTS):
                write_frames(video, masks[:, index], f"{{:08d}}_mask_{index:02d}.png")
    return tmp_path


def open_reader(root: Path, level: str = "e", split: str = "train", num_frames: int | None = 3, **more) -> Movi:
    return Movi(root, level, split, num_frames, **{"video_len": LENGTH, "size": SIZE} | more)


@pytest.mark.parametrize("level", ["e", "E", "Tex", "tex"])
@pytest.mark.parametrize(("split", "starts"), [("train", [0, 1, 2, 3]), ("val", [0, 1]), ("test", [0])])
def test_clips_hold_the_frames_that_were_written(root, level, split, starts):
    source = open_reader(root, level, split, frame_offset=2)
    assert isinstance(source, BatchSource)
    assert source.clips.tolist() == [[video, start] for video in range(COUNT) for start in starts]
    video = source.read(np.arange(len(source)))["video"]
    expected = [resize_frames(VIDEOS[v][s : s + 5 : 2], SIZE).transpose(0, 3, 1, 2) for v, s in source.clips]
    assert video.dtype == torch.uint8
    np.testing.assert_array_equal(video, np.stack(expected))


def test_validation_takes_blocks(root):
    assert open_reader(root, "e", "val", 2).clips[:, 1].tolist() == [0, 2, 4, 6] * COUNT


def test_objects_are_numbered_without_gaps(root):
    source = open_reader(root, masks=True)
    mask = source.read(np.arange(len(source)))["mask"].numpy()
    assert (mask.dtype, mask.shape) == (np.uint8, (len(source), 3, *SIZE))
    for (video, start), found in zip(source.clips, mask):
        labels = resize_labels(LABELS[video], SIZE)[start : start + 3]
        assert np.unique(found).tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(np.array([0, 2, 3, 7 + video, 200])[found], labels)


def test_a_clip_without_background_has_none():
    labels = np.array([[[3, 3, 9], [9, 255, 3]]], np.uint8)
    np.testing.assert_array_equal(numbered_without_gaps(labels), [[[1, 1, 2], [2, 3, 1]]])
    np.testing.assert_array_equal(numbered_without_gaps(labels, as_original=True), [[[0, 0, 1], [1, 2, 0]]])
    labels[0, 0, 0] = 0
    for as_original in (False, True):
        np.testing.assert_array_equal(numbered_without_gaps(labels, as_original), [[[0, 1, 2], [2, 3, 1]]])


def test_the_largest_of_the_binary_masks_counts(root):
    source = open_reader(root, "Tex", "test", None, size=(SIDE, SIDE), masks=True)
    mask = source.read(np.arange(COUNT))["mask"].numpy()
    # Every object and the background occur, so that numbers stay as they are.
    assert np.unique(mask).tolist() == list(range(NUM_OBJECTS + 1))
    objects = OBJECT_MASKS.argmax(axis=2) + 1
    np.testing.assert_array_equal(mask, np.where(OBJECT_MASKS.max(axis=2) > 1, objects, 0))
    small = open_reader(root, "Tex", "test", None, masks=True).read(np.arange(COUNT))["mask"].numpy()
    np.testing.assert_array_equal(small[1], resize_labels(mask[1], SIZE))


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(root, num_workers):
    source = open_reader(root, masks=True)
    loader = TrainingLoader(source, 5, seed=1, device=torch.device("cpu"), num_workers=num_workers)
    batches = loader.batches(0)
    resident = to_resident(open_reader(root, masks=True), torch.device("cpu"))
    for (_, indices), batch in zip(loader.indices(0), [next(batches) for _ in range(6)]):
        assert torch.equal(batch["video"], resident["video"][indices].float() / 255)
        assert torch.equal(batch["mask"], resident["mask"][indices])
    batches.close()


def test_frames_and_masks_are_decoded_once_each(root, cache):
    for _ in range(2):
        open_reader(root, masks=True).read(np.arange(2))
        open_reader(root, num_frames=1).read(np.arange(2))
    assert len(list(cache.glob("*.npy"))) == 2


def test_a_missing_frame_or_mask(root):
    (root / "MOVi-E/train/00000001/000005.jpg").unlink()
    with pytest.raises(DataError, match=r"00000001/000005\.jpg: no such file; its folder holds 15 files"):
        open_reader(root).read(np.array([0]))
    (root / "MOVi-E/test/00000002/000007_mask.png").unlink()
    with pytest.raises(DataError, match=r"00000002/000007_mask\.png: no such file; its folder holds 15 files"):
        open_reader(root, "e", "test", masks=True).read(np.array([0]))
    (root / "MOVi-Tex/test/00000000/00000003_mask_04.png").unlink()
    with pytest.raises(DataError, match=r"00000000/00000003_mask_04\.png: no such file; its folder holds 87 files"):
        open_reader(root, "Tex", "test", masks=True).read(np.array([0]))


def test_damaged_frames_and_masks(root):
    path = root / "MOVi-E/train/00000001/000002_mask.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"000002_mask\.png: cannot be read as a picture .*again"):
        open_reader(root, masks=True).read(np.array([0]))
    Image.fromarray(VIDEOS[0][0]).save(path)
    with pytest.raises(DataError, match=r"000002_mask\.png: a mask has one byte per pixel, this picture is RGB"):
        open_reader(root, masks=True).read(np.array([0]))


def test_the_val_split_of_solid_and_tex_has_no_masks(root):
    with pytest.raises(DataError, match=r"val/00000000: no 00000000_mask_NN\.png .* use the test split"):
        open_reader(root, "Tex", "val", masks=True).read(np.array([0]))


def test_no_data(root):
    with pytest.raises(DataError, match=r"MOVi-Solid/val: no folders .*STEVE.*make_data\.py movi-solid --root"):
        Movi(root, "Solid", "val")
    with pytest.raises(DataError, match=r"MOVi-D/validation: no folders .*download_movi\.py.*make_data\.py movi-d"):
        Movi(root, "d", "val")


def test_unknown_levels_and_splits(root):
    with pytest.raises(ValueError, match="MOVi level 'f' is not one of A, B, C, D, E, Solid, Tex"):
        Movi(root, "f", "train")
    with pytest.raises(ValueError, match="MOVi split 'validation' is not one of train, val, test"):
        Movi(root, "e", "validation")
