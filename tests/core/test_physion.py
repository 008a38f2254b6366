"""The Physion reader on a small tree in the published layout, with lists of its own or the published ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.errors import DataError
from core.data.loader import BatchSource, TrainingLoader, to_resident
from core.data.physion import FOLDERS, SCENARIOS, Physion, listed_videos, without_bad_stimuli
from core.data.video import read_mp4, resize_frames
from tests.video_files import smooth_frames, write_frames, write_json, write_mp4

LENGTH, SIDE = 9, 32
SIZE = (16, 16)
# Not in the order of the alphabet.
MEMBERS = {"Support": ["towers_0003_img", "towers_0001_img"], "Collide": ["ball_0002_img"]}
CODEC_LOSS = 12


def paths_of(subset: str, members: dict[str, list[str]]) -> dict[str, list[str]]:
    return {task: [f"{FOLDERS[subset].format(task)}/{name}.mp4" for name in names] for task, names in members.items()}


def write_set(root: Path, subset: str, split: str, members: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """mp4 files and their list; the frames by name."""
    videos = {}
    for task, paths in write_list(root, subset, split, members).items():
        for path in paths:
            videos[Path(path).stem] = frames = smooth_frames(LENGTH, SIDE, SIDE, len(videos))
            write_mp4(root / path, frames)
        assert task in SCENARIOS
    return videos


def write_list(root: Path, subset: str, split: str, members: dict[str, list[str]]) -> dict[str, list[str]]:
    lists = paths_of(subset, members)
    write_json(root / "splits" / f"{subset}_{split}.json", lists)
    return lists


def write_csv(root: Path, name: str, lines: list[str]) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([",ground truth outcome,another", *lines]) + "\n")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path) -> Path:
    write_set(tmp_path / "Physion", "training", "train", MEMBERS)
    return tmp_path / "Physion"


def open_reader(root: Path, subset: str = "training", split: str = "train", **more) -> Physion:
    return Physion(root, subset, split, **{"num_frames": 3, "video_len": LENGTH, "size": SIZE} | more)


def test_clips_hold_the_frames_that_were_written(root):
    source = open_reader(root, frame_offset=2)
    assert isinstance(source, BatchSource)
    assert source.names == ["towers_0003_img", "towers_0001_img", "ball_0002_img"]
    assert source.scenarios.tolist() == [SCENARIOS.index("Support")] * 2 + [SCENARIOS.index("Collide")]
    batch = source.read(np.arange(len(source)))
    assert set(batch) == {"video"}
    assert (batch["video"].dtype, batch["video"].shape) == (torch.uint8, (3 * 5, 3, 3, *SIZE))
    for (video, start), clip in zip(source.clips, batch["video"].numpy()):
        frames = smooth_frames(LENGTH, SIDE, SIDE, video)[start : start + 5 : 2]
        difference = np.abs(clip - resize_frames(frames, SIZE).transpose(0, 3, 1, 2).astype(int))
        assert difference.max() <= CODEC_LOSS
        assert difference.mean() < 2


def test_frames_beside_the_files_are_the_same_videos(root):
    before = open_reader(root).read(np.arange(21))["video"]
    for path in sorted(root.rglob("*.mp4")):
        write_frames(path.with_suffix(""), read_mp4(path, LENGTH))
        path.unlink()
    assert torch.equal(open_reader(root).read(np.arange(21))["video"], before)


def test_scenarios_are_chosen_by_task(root):
    source = open_reader(root, tasks=["Collide"])
    assert source.names == ["ball_0002_img"]
    assert open_reader(root, tasks=["Collide", "Support"]).names == ["ball_0002_img", *MEMBERS["Support"]]
    clip = open_reader(root).read(np.array([14]))["video"]
    assert torch.equal(source.read(np.array([0]))["video"], clip)


def test_evaluation_takes_blocks_and_whole_videos_start_at_the_first_frame(root):
    write_set(root, "training", "val", MEMBERS)
    assert open_reader(root, split="val", num_frames=2, frame_offset=2).clips[:, 1].tolist() == [0, 1, 4, 5] * 3
    whole = open_reader(root, split="val", num_frames=None, frame_offset=2)
    assert whole.read(np.arange(3))["video"].shape[:2] == (3, 4)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(root, num_workers):
    write_set(root, "readout", "train", MEMBERS)
    write_csv(root, "PhysionTrainMP4s/readout_labels.csv", [f"{n},True,0" for n in ("towers_0003", "towers_0001")])
    with (root / "PhysionTrainMP4s/readout_labels.csv").open("a") as file:
        file.write("ball_0002,False,0\n")
    source = open_reader(root, "readout", labels=True)
    loader = TrainingLoader(source, 6, seed=1, device=torch.device("cpu"), num_workers=num_workers)
    batches = loader.batches(0)
    resident = to_resident(source, torch.device("cpu"))
    assert resident["label"].tolist() == [1] * 14 + [0] * 7
    for (_, indices), batch in zip(loader.indices(0), [next(batches) for _ in range(4)]):
        assert torch.equal(batch["video"], resident["video"][indices].float() / 255)
        assert torch.equal(batch["label"], resident["label"][indices])
        assert torch.equal(batch["scenario"], resident["scenario"][indices])
    batches.close()


def test_flawed_videos_are_left_out_and_scenarios_stay_right(tmp_path):
    names = [f"pilot-containment-box-redyellow_{number:04d}_img" for number in (3, 4, 5)]
    ledge = "pilot_it2_rollingSliding_simple_ledge_box_1_dis_1_occ-redyellow_0001_img"
    write_set(tmp_path, "test", "test", {"Contain": names, "Roll": [ledge], "Support": ["towers-redyellow_0001_img"]})
    write_csv(
        tmp_path,
        "PhysionTestMP4s/labels.csv",
        [
            "pilot-containment-box_0003_img,True,x",
            "pilot-containment-box_0005_img,False,x",
            "towers_0001_img,True,x",
            "pilot_it2_rollingSliding_simple_ledge_box_1_dis_1_occ_0001_img,False,x",
        ],
    )
    source = open_reader(tmp_path, "test", "test", num_frames=None, labels=True)
    assert source.names == [names[0], names[2], "towers-redyellow_0001_img"]
    batch = source.read(np.arange(3))
    assert batch["label"].tolist() == [1, 0, 1]
    contain, roll, support = (SCENARIOS.index(task) for task in ("Contain", "Roll", "Support"))
    assert batch["scenario"].tolist() == [contain, contain, support]
    original = open_reader(tmp_path, "test", "test", num_frames=None, labels=True, as_original=True)
    assert original.names == [names[0], names[2], ledge, "towers-redyellow_0001_img"]
    assert original.labels.tolist() == [1, 0, 0, 1]
    # One place behind from the video left out on.
    assert original.scenarios.tolist() == [contain, contain, contain, roll]
    # Without labels all are there.
    assert len(open_reader(tmp_path, "test", "test", num_frames=None)) == 5
    (tmp_path / "splits" / "bad_stimuli.txt").write_text("towers_0001\n")
    assert without_bad_stimuli(tmp_path, listed_videos(tmp_path, "test", "test"))[-1].name == ledge


def test_published_lists(tmp_path):
    counts = {
        ("training", "train"): 15200,
        ("training", "val"): 798,
        ("readout", "train"): 7601,
        ("readout", "val"): 404,
        ("test", "test"): 1200,
    }
    for (subset, split), count in counts.items():
        videos = listed_videos(tmp_path, subset, split)
        assert len({video.path for video in videos}) == len(videos) == count
        assert videos[0].scenario == SCENARIOS.index("Support")
    first = listed_videos(tmp_path, "test", "test", ["Drape"])[0]
    assert first.path == "PhysionTestMP4s/Drape/mp4s-redyellow/test10-redyellow_0001_img.mp4"
    test = listed_videos(tmp_path, "test", "test")
    assert len(without_bad_stimuli(tmp_path, test, as_original=True)) == 1174
    assert len(without_bad_stimuli(tmp_path, test)) == 1171


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["towers_0003,True,0"], r"no outcome of 'towers_0001', needed for .*towers_0001_img\.mp4\. Take"),
        (["towers_0003,True,0", "towers_0003,False,0"], r"more than one outcome of 'towers_0003'"),
        (["towers_0003,maybe,0"], r"not a table of names and a column 'ground truth outcome' of True and False"),
        (["towers_0003"], r"not a table of names and a column 'ground truth outcome'"),
    ],
)
def test_labels_that_are_missing_or_contradict(root, lines, message):
    write_set(root, "readout", "val", MEMBERS)
    write_csv(root, "PhysionTrainMP4s/readout_labels.csv", lines)
    with pytest.raises(DataError, match=r"readout_labels\.csv: " + message):
        open_reader(root, "readout", "val", labels=True)


def test_a_label_given_twice_alike_is_taken(root):
    write_set(root, "readout", "val", {"Collide": MEMBERS["Collide"]})
    write_csv(root, "PhysionTrainMP4s/readout_labels.csv", ["ball_0002,True,0", "ball_0002,True,1"])
    assert open_reader(root, "readout", "val", labels=True).labels.tolist() == [1]


def test_labels_that_there_are_none_of(root):
    with pytest.raises(ValueError, match="subset 'training' has no labels, only readout, test have"):
        open_reader(root, labels=True)
    write_set(root, "readout", "val", MEMBERS)
    with pytest.raises(DataError, match=r"readout_labels\.csv: no such file\. .*physics-benchmarking"):
        open_reader(root, "readout", "val", labels=True)


def test_missing_videos(root):
    for name in MEMBERS["Support"]:
        (root / f"PhysionTrainMP4s/Support_training_MP4s/{name}.mp4").unlink()
    message = r"towers_0003_img\.mp4: no such file, nor a folder of its frames \(2 of 3 videos are missing\)\. Fetch"
    with pytest.raises(DataError, match=message):
        open_reader(root)


def test_half_copied_videos(root, cache):
    path = root / "PhysionTrainMP4s/Collide_training_MP4s/ball_0002_img.mp4"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"ball_0002_img\.mp4: .*fetch or make it again"):
        open_reader(root).read(np.array([0]))
    write_frames(path.with_suffix(""), smooth_frames(4, SIDE, SIDE))
    with pytest.raises(DataError, match=r"ball_0002_img/000004\.png: no such file; its folder holds 4 files"):
        open_reader(root).read(np.array([0]))
    assert not list(cache.glob("*.npy"))


def test_short_videos(root):
    with pytest.raises(DataError, match=r"img\.mp4: holds 9 frames, expected at least 12\. .*lower the length"):
        open_reader(root, video_len=12).read(np.array([0]))


def test_damaged_lists(root):
    path = root / "splits" / "training_train.json"
    for text in ("{", "[]", '{"Drop": [3]}', '{"Drop": 3}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"training_train\.json: not an object of scenarios with paths .*Make"):
            open_reader(root)


def test_unknown_subsets_splits_and_tasks(root):
    with pytest.raises(ValueError, match="subset/split training/test is not one of training/train, training/val, "):
        open_reader(root, split="test")
    with pytest.raises(ValueError, match="subset/split tests/test is not one of"):
        open_reader(root, "tests", "test")
    with pytest.raises(ValueError, match="Physion task 'Contain' is not one of all, Support, Collide"):
        open_reader(root, tasks=["Contain"])
