"""The OBJ3D reader on a small tree in the published layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.errors import DataError
from core.data.loader import BatchSource, TrainingLoader
from core.data.obj3d import Obj3D
from core.data.video import resize_frames
from tests.video_files import smooth_frames, write_frames

LENGTH, SIDE = 12, 24
SIZE = (12, 12)
# In the order of strings.
FOLDERS = ["0", "10", "2"]
VIDEOS = {name: smooth_frames(LENGTH + 3, SIDE, SIDE, seed) for seed, name in enumerate(FOLDERS)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path) -> Path:
    for split in ("train", "val"):
        for name, frames in VIDEOS.items():
            # test_0.png is there and never used.
            write_frames(tmp_path / "OBJ3D" / split / name, frames, "test_{}.png")
    (tmp_path / "OBJ3D" / "train" / "readme.txt").touch()
    return tmp_path / "OBJ3D"


def open_reader(root: Path, split: str, num_frames: int | None = 4, frame_offset: int = 1, **settings) -> Obj3D:
    return Obj3D(root, split, num_frames, frame_offset, **{"video_len": LENGTH, "size": SIZE} | settings)


def expected_clip(name: str, start: int, num_frames: int, offset: int) -> np.ndarray:
    frames = VIDEOS[name][start + 1 :][: num_frames * offset : offset]
    return resize_frames(frames, SIZE).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(("num_frames", "offset"), [(4, 1), (4, 3), (1, 1), (12, 1)])
def test_training_clips_start_everywhere(root, num_frames, offset):
    source = open_reader(root, "train", num_frames, offset)
    assert isinstance(source, BatchSource)
    assert source.names == FOLDERS
    starts = LENGTH - (num_frames - 1) * offset
    assert len(source) == 3 * starts
    video = source.read(np.arange(len(source)))["video"]
    assert (video.dtype, video.shape) == (torch.uint8, (len(source), num_frames, 3, *SIZE))
    for sample, (name, start) in enumerate((name, start) for name in FOLDERS for start in range(starts)):
        np.testing.assert_array_equal(video[sample], expected_clip(name, start, num_frames, offset))


def test_validation_clips_start_at_the_first_frame(root):
    source = open_reader(root, "val")
    video = source.read(np.array([2, 0, 2]))["video"].numpy()
    assert len(source) == 3
    np.testing.assert_array_equal(video, np.stack([expected_clip(FOLDERS[i], 0, 4, 1) for i in (2, 0, 2)]))


@pytest.mark.parametrize(("offset", "frames"), [(1, 13), (2, 6)])
def test_whole_videos_are_one_frame_longer(root, offset, frames):
    source = open_reader(root, "train", None, offset)
    video = source.read(np.arange(3))["video"].numpy()
    np.testing.assert_array_equal(video, np.stack([expected_clip(name, 0, frames, offset) for name in FOLDERS]))


def test_masks_come_beside_the_frames_or_are_missed(root):
    with pytest.raises(DataError, match=r"no mask_1\.png.*read without masks"):
        open_reader(root, "val", masks=True)
    labels = np.random.default_rng(0).integers(0, 5, (3, LENGTH + 1, SIDE, SIDE), dtype=np.uint8)
    for name, video in zip(FOLDERS, labels):
        for number, picture in enumerate(video, start=1):
            Image.fromarray(picture).save(root / "val" / name / f"mask_{number}.png")
    mask = open_reader(root, "val", size=(SIDE, SIDE), masks=True).read(np.array([2, 0]))["mask"]
    np.testing.assert_array_equal(mask, labels[[2, 0], :4])


def test_frames_keep_their_size_if_asked(root):
    video = open_reader(root, "val", size=(SIDE, SIDE)).read(np.array([1]))["video"][0]
    np.testing.assert_array_equal(video, VIDEOS["10"][1:5].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(root, num_workers):
    source = open_reader(root, "train")
    loader = TrainingLoader(source, 5, seed=3, device=torch.device("cpu"), num_workers=num_workers)
    batches = loader.batches(0)
    for (_, indices), batch in zip(loader.indices(0), [next(batches) for _ in range(7)]):
        for (video, start), clip in zip(source.clips[indices], batch["video"]):
            expected = expected_clip(FOLDERS[video], start, 4, 1)
            np.testing.assert_array_equal((clip * 255).round().byte().numpy(), expected)
    batches.close()


def test_all_clips_of_a_split_share_one_decoded_array(root, cache):
    for num_frames, offset in ((4, 1), (2, 3)):
        open_reader(root, "train", num_frames, offset).read(np.arange(2))
    assert len(list(cache.glob("train-*.npy"))) == 1
    open_reader(root, "val").read(np.arange(2))
    assert len(list(cache.glob("*.npy"))) == 2


def test_a_missing_frame(root, cache):
    (root / "train" / "10" / "test_5.png").unlink()
    with pytest.raises(DataError, match=r"train/10/test_5\.png: no such file; its folder holds 14 files\..*again"):
        open_reader(root, "train").read(np.array([0]))
    assert not list(cache.glob("*.npy"))


def test_a_half_copied_frame(root):
    path = root / "train" / "2" / "test_12.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"train/2/test_12\.png: cannot be read as a picture .*again"):
        open_reader(root, "train").read(np.array([0]))


def test_a_frame_of_another_size(root):
    Image.fromarray(VIDEOS["0"][3, :9]).save(root / "val" / "0" / "test_3.png")
    with pytest.raises(DataError, match=r"val/0/test_3\.png: is 24x9, but test_1\.png is 24x24\."):
        open_reader(root, "val").read(np.array([0]))


def test_no_data(tmp_path):
    with pytest.raises(
        DataError, match=r"OBJ3D/test: no folders of videos in it\. .*G-SWM.*make_data\.py obj3d --root"
    ):
        Obj3D(tmp_path / "OBJ3D", "test")


def test_clips_that_do_not_fit(root):
    with pytest.raises(DataError, match=r"train: clips of 5 frames, 3 apart, do not fit into videos of 12 frames"):
        open_reader(root, "train", 5, 3)


def test_an_unknown_split(root):
    with pytest.raises(ValueError, match="OBJ3D split 'training' is not one of train, val, test"):
        Obj3D(root, "training")
