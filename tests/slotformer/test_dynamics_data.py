"""Data sets of slots: aligned with the frames, from either kind of file, with what models need and no more."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.errors import DataError
from core.data.phyre import Phyre
from core.data.slot_writer import save_array
from core.data.slots import write_h5
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.video_prediction.data import build_dataset, open_slots
from tests.dynamics_runs import PHYRE, small_params
from tests.video_files import write_frames

OBJ3D = "slotformer_obj3d_params"
FRAMES, CLIP = 10, 5


def telling_slots(video: int, length: int = FRAMES) -> np.ndarray:
    """Slots that say of which video and frame they are: 3 of size 16."""
    slots = np.zeros((length, 3, 16), np.float32)
    slots[:, :, 0], slots[:, :, 1], slots[:, :, 2] = video, np.arange(length)[:, None], np.arange(3)
    return slots


@pytest.fixture
def obj3d(tmp_path: Path, monkeypatch) -> Path:
    """Two videos of each split whose frames are grey: 20 times the video, plus the frame."""
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    videos = []
    for split in ("train", "val"):
        for video in range(2):
            grey = (20 * video + np.arange(FRAMES)).astype(np.uint8)
            frames = np.broadcast_to(grey[:, None, None, None], (FRAMES, 64, 64, 3))
            write_frames(tmp_path / "OBJ3D" / split / str(video), np.ascontiguousarray(frames), "test_{}.png", first=1)
            videos.append((split, str(video), telling_slots(video)))
    write_h5(tmp_path / "slots.h5", videos, {})
    return tmp_path


def params_of(folder: Path, *settings: str) -> BaseParams:
    return small_params(OBJ3D, f"data_root={folder / 'OBJ3D'}", f"slots_root={folder / 'slots.pkl'}", *settings)


@pytest.mark.parametrize("offset", [1, 2])
def test_slots_are_those_of_the_frames(obj3d: Path, offset: int) -> None:
    training, validation = build_dataset(params_of(obj3d, f"frame_offset={offset}"))
    assert len(training) == 2 * (9 - (CLIP - 1) * offset)
    assert len(validation) == 2
    for source in (training, validation):
        batch = source.read(np.arange(len(source)))
        assert (batch["slots"].dtype, batch["slots"].shape[1:]) == (torch.float32, (CLIP, 3, 16))
        grey = 20 * batch["slots"][:, :, 0, 0] + batch["slots"][:, :, 0, 1]
        assert torch.equal(batch["video"][:, :, 0, 0, 0].float(), grey)
        assert batch["slots"][0, 0, :, 2].tolist() == [0, 1, 2]
    order = np.array([1, 0, 1])
    again = training.read(order)
    assert torch.equal(again["slots"], training.read(np.arange(2))["slots"][order])


def test_whole_videos_have_all_slots(obj3d: Path) -> None:
    source = open_slots(params_of(obj3d), "val", None, pictures=True)
    batch = source.read(np.array([1]))
    assert torch.equal(batch["slots"][0], torch.from_numpy(telling_slots(1)))
    assert batch["video"].shape == (1, FRAMES, 3, 64, 64)


def test_pickles_of_the_original_give_the_same(obj3d: Path) -> None:
    ours = build_dataset(params_of(obj3d))[0].read(np.arange(4))["slots"]
    (obj3d / "slots.h5").unlink()
    splits = {split: {str(video): telling_slots(video) for video in range(2)} for split in ("train", "val")}
    (obj3d / "slots.pkl").write_bytes(pickle.dumps(splits, protocol=2))
    assert torch.equal(build_dataset(params_of(obj3d))[0].read(np.arange(4))["slots"], ours)


def test_frames_are_read_where_they_are_compared(obj3d: Path) -> None:
    training, validation = build_dataset(params_of(obj3d, "loss_dict.use_img_recon_loss=False"))
    assert set(training.read(np.array([0]))) == {"slots"}
    assert set(validation.read(np.array([0]))) == {"slots", "video"}
    assert not list((obj3d / "cache").glob("*train*"))
    without = params_of(obj3d, "loss_dict.use_img_recon_loss=False", "load_img=False")
    assert all(set(source.read(np.array([0]))) == {"slots"} for source in build_dataset(without))
    with pytest.raises(ParamsError, match="use_img_recon_loss needs images, but load_img is False"):
        build_dataset(params_of(obj3d, "load_img=False"))


def test_slots_of_something_else_are_refused(obj3d: Path) -> None:
    with pytest.raises(DataError, match=r"slots.h5: train/0 holds 10 frames of 3 slots of size 16, expected .* of 4 s"):
        build_dataset(params_of(obj3d, "num_slots=4"))
    write_h5(obj3d / "short.h5", [("train", str(video), telling_slots(video, 8)) for video in range(2)], {})
    with pytest.raises(DataError, match=r"holds 8 frames .* expected at least 9 frames"):
        build_dataset(params_of(obj3d, f"slots_root={obj3d / 'short.h5'}"))
    write_h5(obj3d / "few.h5", [("train", "0", telling_slots(0))], {})
    with pytest.raises(DataError, match="train has no slots of 1"):
        build_dataset(params_of(obj3d, f"slots_root={obj3d / 'few.h5'}"))
    with pytest.raises(ParamsError, match=r"'ob3d_slots' is not one of .*; did you mean 'obj3d_slots'"):
        build_dataset(params_of(obj3d, "dataset=ob3d_slots"))


def test_slots_alone_need_no_videos(tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    for split in ("train", "val"):
        (tmp_path / "splits" / f"training_{split}.json").write_text('{"Drop": ["a/one.mp4"]}')
    write_h5(tmp_path / "slots.h5", [(split, "one", telling_slots(0, 12)) for split in ("train", "val")], {})
    paths = (f"data_root={tmp_path}", f"slots_root={tmp_path / 'slots.h5'}", "frame_offset=1")
    params = small_params("slotformer_physion_params", *paths)
    training, validation = build_dataset(params)
    assert set(training.read(np.array([0]))) == {"slots"}
    assert (len(training), len(validation)) == (9, 3)
    with pytest.raises(DataError, match=r"one\.mp4: no such file, nor a folder of its frames"):
        open_slots(params, "val", None, pictures=True)


def phyre_params(folder: Path, *settings: str) -> BaseParams:
    config = "slotformer_phyre_params-fold0"
    return small_params(config, f"slots_root={folder}/{{}}_slots", *PHYRE, "n_sample_frames=4", *settings)


def test_trials_of_phyre_are_filled_up(tmp_path: Path) -> None:
    options = {"num_actions": 8, "num_tasks": 2, "data_ratio": 0.5, "pos_ratio": 0.5}
    with pytest.raises(ParamsError, match="frame_offset is 2, expected 1: fps says which of PHYRE's frames count"):
        build_dataset(phyre_params(tmp_path, "frame_offset=2"))
    counts = {split: len(Phyre(split, None, video_len=4, **options)) for split in ("train", "val")}
    for split, count in counts.items():
        (tmp_path / f"{split}_slots").mkdir()
        for trial in range(count):
            save_array(tmp_path / f"{split}_slots" / f"{trial:06d}.npy", telling_slots(trial, 1 + trial % 6))
    training, validation = build_dataset(phyre_params(tmp_path))
    assert len(training) == counts["train"]
    trials = np.arange(min(8, counts["train"]))
    batch = training.read(trials)
    assert set(batch) == {"slots", "vid_len"}
    assert batch["vid_len"].tolist() == [min(1 + trial % 6, 4) for trial in trials]
    assert batch["slots"].shape[1:] == (4, 3, 16)
    for trial, slots in zip(trials, batch["slots"]):
        assert slots[:, 0, 0].tolist() == [trial] * 4
        assert slots[:, 0, 1].tolist() == [min(frame, trial % 6) for frame in range(4)]
    found = validation.read(np.array([0, 1]))
    after = [min(1 + trial % 6, 4) - 1 for trial in range(counts["val"])]
    assert found["mean_frames"].tolist() == pytest.approx([sum(after) / counts["val"]] * 2), "of the whole set"
    assert found["video"].shape == (2, 4, 3, 128, 128)
    whole = Phyre("val", None, video_len=4, **options).read(np.array([0, 1]))
    assert torch.equal(found["video"], whole["video"])
    assert (
        len(open_slots(phyre_params(tmp_path, "video_len=6"), "val", None, True).read(np.array([3]))["slots"][0]) == 6
    )
    (tmp_path / "train_slots" / "000001.npy").unlink()
    with pytest.raises(DataError, match=r"000001\.npy: no such file \(1 of \d+ are missing\)"):
        build_dataset(phyre_params(tmp_path))
    with pytest.raises(DataError, match=r"val_slots/000000\.npy: 3 slots of size 16, expected 5 of size 16"):
        open_slots(phyre_params(tmp_path, "num_slots=5"), "val", 4, False).read(np.array([0]))
