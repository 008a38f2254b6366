"""Files and folders of slots: written in parts, read in parts, in our format and in the originals'."""

import fcntl
import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from core.data.errors import DataError
from core.data.slot_writer import SlotWriter, save_array
from core.data.slots import SlotFile, SlotFolder, find_slots, slots_path
from core.provenance import Provenance

NAMES = {"train": ["video_00001.mp4", "video_00000.mp4"], "val": ["a"]}
MADE_BY = Provenance({"weight_sha256": "12ab", "config": {"num_slots": 4}}, {"weight": "model_5.pth"})
OTHER = Provenance({"weight_sha256": "34cd", "config": {"num_slots": 5}})


def slots_of(name: str, frames: int = 7) -> np.ndarray:
    return np.random.default_rng(len(name) + ord(name[-5:][0])).standard_normal((frames, 4, 8), dtype=np.float32)


def write(path: Path, provenance: Provenance = MADE_BY) -> Path:
    writer = SlotWriter(path, provenance)
    writer.begin()
    for split, names in NAMES.items():
        for name in names:
            writer.add(split, name, slots_of(name))
    writer.finish(NAMES)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["slots.h5", "slots.pkl"])
def test_what_was_written_is_read(tmp_path, name):
    slots = SlotFile(write(tmp_path / "deep" / name))
    assert slots.splits == ["train", "val"]
    assert slots.names("train") == sorted(NAMES["train"])
    for split, names in NAMES.items():
        slots.check(split, names)
        for video in names:
            found = slots.read(split, video)
            assert (found.dtype, found.shape, slots.shape(split, video)) == (np.float32, (7, 4, 8), (7, 4, 8))
            np.testing.assert_array_equal(found, slots_of(video))
            np.testing.assert_array_equal(slots.read(split, video, slice(1, 6, 2)), slots_of(video)[1:6:2])
    assert [path.name for path in (tmp_path / "deep").glob("*.parts")] == []


def test_hdf5_says_where_it_comes_from(tmp_path):
    path = write(tmp_path / "slots.h5")
    with h5py.File(path) as file:
        assert (file.attrs["weight"], file.attrs["weight_sha256"]) == ("model_5.pth", "12ab")
        assert (file["train/video_00000.mp4"].shape, file["train/video_00000.mp4"].dtype) == ((7, 4, 8), np.float32)
    assert SlotFile(path).provenance["config"] == {"num_slots": 4}


def test_the_pickle_is_the_originals(tmp_path, cache):
    path = write(tmp_path / "slots.pkl")
    assert path.read_bytes()[:2] == b"\x80\x02", "protocol 2"
    assert json.loads((tmp_path / "slots.pkl.json").read_text())["weight_sha256"] == "12ab"
    SlotFile(path)
    (converted,) = cache.glob("slots-slots-*.h5")
    before = converted.stat().st_mtime_ns
    SlotFile(path)
    assert converted.stat().st_mtime_ns == before, "converted once"
    write(path, OTHER)
    SlotFile(path)
    assert len(list(cache.glob("slots-slots-*.h5"))) == 2, "and again when it has changed"


class Reads(Dataset):
    """Reads video `i % 3` in whatever process."""

    def __init__(self, slots: SlotFile):
        self.slots = slots
        self.videos = [(split, name) for split, names in NAMES.items() for name in names]

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.slots.read(*self.videos[index % 3]))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_share_a_file(tmp_path, start):
    source = Reads(SlotFile(write(tmp_path / "slots.h5")))
    source[0]
    loader = DataLoader(source, batch_size=None, num_workers=2, multiprocessing_context=start)
    for index, found in enumerate(loader):
        assert torch.equal(found, source[index])


def test_either_suffix_finds_the_file(tmp_path):
    path = write(tmp_path / "slots.h5")
    assert find_slots(tmp_path / "slots.pkl") == path
    (tmp_path / "slots.pkl").symlink_to("gone")
    assert find_slots(tmp_path / "slots.pkl") == path
    (tmp_path / "slots.pkl").unlink()
    pickled = write(tmp_path / "slots.pkl")
    assert find_slots(tmp_path / "slots.pkl") == pickled, "the one that is named comes first"
    assert find_slots(tmp_path / "slots.h5") == path
    path.unlink()
    assert find_slots(tmp_path / "slots.h5") == pickled


def test_slots_beside_a_weight_are_found_from_the_folder_of_its_training(tmp_path):
    named = tmp_path / "run" / "readout_slots.pkl"
    assert slots_path(named) == named, "the error is to name it"
    for folder in ("models/epoch", "models", "."):
        path = write(named.parent / folder / "readout_slots.h5")
        assert find_slots(slots_path(named)) == path, "the nearest comes first"
    trials = tmp_path / "other" / "models" / "train_slots"
    trials.mkdir(parents=True)
    assert slots_path(tmp_path / "other" / "train_slots") == trials


def test_missing_files_and_videos_are_named(tmp_path):
    with pytest.raises(
        DataError, match=r"none.pkl: no such file, nor one with the suffix .h5. Extract the slots first"
    ):
        SlotFile(tmp_path / "none.pkl")
    (tmp_path / "link.h5").symlink_to("gone")
    with pytest.raises(DataError, match=r"link.h5: a link to a file that is gone"):
        SlotFile(tmp_path / "link.h5")
    slots = SlotFile(write(tmp_path / "slots.h5"))
    with pytest.raises(DataError, match=r"slots.h5: no split 'test', only train, val"):
        slots.names("test")
    with pytest.raises(DataError, match=r"train has no slots of b \(2 videos are missing, 2 are there\)"):
        slots.check("train", ["b", "video_00000.mp4", "c"])
    with pytest.raises(DataError, match="val has no slots of b"):
        slots.read("val", "b")


def test_damaged_files_are_named(tmp_path):
    path = write(tmp_path / "slots.h5")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"x" * len(whole)):
        path.write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"slots.h5: not a readable file of slots .* It is damaged: extract the slots"
        ):
            SlotFile(path)
    path.write_bytes(whole)
    slots = SlotFile(path)
    path.write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"slots.h5: train/video_00000.mp4 cannot be read"):
        slots.read("train", "video_00000.mp4")
    with h5py.File(path, "w") as file:
        file.create_dataset("train/a", data=slots_of("a"), compression="gzip")
    with pytest.raises(DataError, match=r"/train/a is float32 \[7, 4, 8\], expected .* neither compressed"):
        SlotFile(path)


class Runs:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Runs(), "names __builtin__.print"),
        ([1, 2], "not a file of slots, expected {split: {video: array"),
        ({"train": {"a": np.zeros((2, 3), np.float32)}}, r"train/a is float32 \[2, 3\], expected"),
        ({"train": {"a": [1.0]}}, "train/a is list, expected"),
    ],
)
def test_other_pickles_are_refused(tmp_path, content, message, cache):
    path = tmp_path / "slots.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=f"slots.pkl.*{message}"):
        SlotFile(path)
    assert list(cache.glob("*.h5")) == []


def test_double_precision_pickles_are_read_as_float32(tmp_path):
    path = tmp_path / "slots.pkl"
    path.write_bytes(pickle.dumps({"val": {"a": slots_of("a").astype(np.float64)}}, protocol=2))
    np.testing.assert_array_equal(SlotFile(path).read("val", "a"), slots_of("a"))


def test_a_writer_goes_on_where_another_was_killed(tmp_path):
    path = tmp_path / "slots.h5"
    first = SlotWriter(path, MADE_BY)
    first.begin()
    first.add("train", "video_00000.mp4", slots_of("video_00000.mp4"))
    (first.folder / "train" / ".video_00001.mp4.npy.99.partial").write_bytes(b"half of it")
    del first
    second = SlotWriter(path, MADE_BY)
    second.begin()
    assert [second.has("train", name) for name in NAMES["train"]] == [False, True]
    with pytest.raises(DataError, match=r"video_00001.mp4.npy: cannot be read"):
        second.finish(NAMES)
    assert not path.exists()
    for split, name in (("train", "video_00001.mp4"), ("val", "a")):
        second.add(split, name, slots_of(name))
    assert not second.is_done(NAMES)
    second.finish(NAMES)
    np.testing.assert_array_equal(SlotFile(path).read("train", "video_00000.mp4"), slots_of("video_00000.mp4"))


@pytest.mark.parametrize("name", ["slots.h5", "slots.pkl"])
def test_a_finished_file_is_known(tmp_path, name):
    path = write(tmp_path / name)
    assert SlotWriter(path, MADE_BY).is_done(NAMES)
    assert SlotWriter(path, Provenance(MADE_BY.decisive)).is_done(NAMES), "remarks do not count"
    assert not SlotWriter(path, MADE_BY).is_done({**NAMES, "val": ["b"]})
    assert not SlotWriter(path, OTHER).is_done(NAMES)
    write(path, OTHER)
    assert SlotWriter(path, OTHER).is_done(NAMES)


def test_parts_of_other_weights_are_not_mixed_in(tmp_path):
    writer = SlotWriter(tmp_path / "slots.h5", MADE_BY)
    writer.begin()
    writer.add("val", "a", slots_of("a"))
    with pytest.raises(DataError, match=r"slots.h5.parts: another process extracts slots there"):
        SlotWriter(tmp_path / "slots.h5", MADE_BY).begin()
    fcntl.flock(writer._lock, fcntl.LOCK_UN)
    with pytest.raises(
        DataError, match=r"slots.h5.parts: holds results of other weights or settings:\n.*num_slots: 4 -> 5"
    ):
        SlotWriter(tmp_path / "slots.h5", OTHER).begin()
    with pytest.raises(DataError, match=r"slots.npz: expected a name that ends in .h5, or in .pkl"):
        SlotWriter(tmp_path / "slots.npz", MADE_BY)


def test_folders_of_unknown_origin_are_not_claimed(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "000000.npy").touch()
    with pytest.raises(DataError, match=r"full: holds files, but no provenance.json"):
        MADE_BY.claim(tmp_path / "full")
    MADE_BY.claim(tmp_path / "new")
    MADE_BY.claim(tmp_path / "new")
    (tmp_path / "new" / "provenance.json").write_text("{")
    with pytest.raises(DataError, match=r"new/provenance.json: not readable"):
        MADE_BY.claim(tmp_path / "new")


def test_folders_of_trials(tmp_path):
    with pytest.raises(DataError, match=r"none: no such folder. Make the slots first: python rollouts.py \.\.\."):
        SlotFolder(tmp_path / "none", 3, "rollouts.py")
    lengths = [4, 2, 7]
    for trial, length in enumerate(lengths):
        folder = SlotFolder(tmp_path, 3)
        assert folder.missing() == list(range(trial, 3))
        if trial:
            with pytest.raises(DataError, match=rf"00000{trial}.npy: no such file \({3 - trial} of 3 are missing\)"):
                folder.write_index()
        save_array(folder.file(trial), slots_of("a", length))
    assert SlotFolder(tmp_path, 3).lengths.tolist() == lengths, "without an index"
    folder.write_index()
    np.testing.assert_array_equal(folder.read(1), slots_of("a", 2))
    np.testing.assert_array_equal(folder.read(2, [5, 0]), slots_of("a", 7)[[5, 0]])
    with pytest.raises(DataError, match=r"000001.npy: has 2 frames, expected those of \[0, 3\]"):
        folder.read(1, [0, 3])
    folder.file(1).write_bytes(b"")
    assert SlotFolder(tmp_path, 3).lengths.tolist() == lengths, "from the index"
    with pytest.raises(DataError, match=r"000001.npy: cannot be read"):
        folder.read(1)
    with pytest.raises(DataError, match="has slots of 3 trials, expected 4"):
        _ = SlotFolder(tmp_path, 4).lengths
    (tmp_path / "lengths.npy").write_bytes(b"x")
    with pytest.raises(DataError, match=r"lengths.npy: not readable"):
        _ = SlotFolder(tmp_path, 3).lengths
