"""The CLEVRER reader on a small tree in the published layout: mp4 files, frames, annotations, proposals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.clevrer import Clevrer
from core.data.errors import DataError
from core.data.loader import BatchSource, TrainingLoader, to_resident
from core.data.run_length import decode_run_lengths, encode_run_lengths
from core.data.video import read_mp4, resize_frames, resize_labels
from tests.video_files import (
    clevrer_mp4,
    smooth_frames,
    touch_clevrer,
    write_clevrer_annotation,
    write_clevrer_proposal,
    write_frames,
    write_mp4,
)

LENGTH, HEIGHT, WIDTH = 10, 32, 48
SIZE = (16, 16)
COUNT = 3
VIDEOS = [smooth_frames(LENGTH, HEIGHT, WIDTH, seed) for seed in range(COUNT)]
CODEC_LOSS = 12


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


# Two that overlap, one that no pixel of the resized mask sees, one alone.
MASKS = [rectangle(4, 6, 20, 30), rectangle(10, 12, 30, 40), rectangle(31, 47, 32, 48), rectangle(0, 0, 2, 3)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "CLEVRER"
    for number, frames in enumerate(VIDEOS):
        write_mp4(clevrer_mp4(root, "train", number), frames)
    return root


def open_reader(root: Path, split: str = "train", num_frames: int | None = 4, offset: int = 1, **more) -> Clevrer:
    return Clevrer(root, split, num_frames, offset, **{"video_len": LENGTH, "size": SIZE} | more)


def everything(source: Clevrer) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in source.read(np.arange(len(source))).items()}


def test_clips_hold_the_frames_that_were_written(root):
    source = open_reader(root, offset=2)
    assert isinstance(source, BatchSource)
    assert source.names == ["video_00000.mp4", "video_00001.mp4", "video_00002.mp4"]
    video = everything(source)["video"]
    assert (video.dtype, video.shape) == (np.uint8, (COUNT * 4, 4, 3, *SIZE))
    expected = [resize_frames(VIDEOS[v][s : s + 7 : 2], SIZE).transpose(0, 3, 1, 2) for v, s in source.clips]
    difference = np.abs(video - np.stack(expected).astype(int))
    assert difference.max() <= CODEC_LOSS
    assert difference.mean() < 2


@pytest.mark.parametrize("suffix", ["{:06d}.png", "{:06d}.jpg"])
def test_frames_beside_an_mp4_are_the_same_video(root, suffix):
    from_mp4 = everything(open_reader(root))["video"]
    for number in range(COUNT):
        path = clevrer_mp4(root, "train", number)
        write_frames(path.with_suffix(""), read_mp4(path, LENGTH), suffix)
        path.unlink()
    from_frames = everything(open_reader(root))["video"].astype(int)
    # Lossless frames give the same bytes.
    assert np.abs(from_frames - from_mp4).mean() <= (0 if suffix.endswith("png") else 3)
    assert open_reader(root).names[0] == "video_00000.mp4"


def test_as_original_only_turns_the_channels_round(root, cache):
    source = open_reader(root)
    rgb, bgr = everything(source)["video"], everything(open_reader(root, as_original=True))["video"]
    np.testing.assert_array_equal(bgr, rgb[:, :, ::-1])
    assert not np.array_equal(bgr, rgb)
    assert len(list(cache.glob("*.npy"))) == 1


def test_whole_videos(root):
    video = everything(open_reader(root, num_frames=None, offset=3))["video"]
    assert video.shape[:2] == (COUNT, 4)
    np.testing.assert_array_equal(video, everything(open_reader(root, offset=3))["video"])


def test_evaluation_takes_blocks_of_starts(tmp_path):
    touch_clevrer(tmp_path, "val", 2)
    clips = open_reader(tmp_path, "val", 2, 2).clips
    assert clips.tolist() == [[video, start] for video in range(2) for start in (0, 1, 4, 5)]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(root, num_workers):
    for number in range(COUNT):
        write_clevrer_proposal(root, number, [MASKS[: t % 4] for t in range(LENGTH)])
    source = open_reader(root, masks=True)
    loader = TrainingLoader(source, 6, seed=1, device=torch.device("cpu"), num_workers=num_workers)
    batches = loader.batches(0)
    resident = to_resident(open_reader(root, masks=True), torch.device("cpu"))
    for (_, indices), batch in zip(loader.indices(0), [next(batches) for _ in range(4)]):
        assert set(batch) == {"video", "mask", "bbox", "visible"}
        for key, value in batch.items():
            expected = resident[key][indices]
            assert torch.equal(value, expected.float() / 255 if key == "video" else expected)
    batches.close()


def test_masks_boxes_and_who_is_there(root):
    masks = [MASKS, [], MASKS[1:2], *[MASKS[:1]] * (LENGTH - 3)]
    for number in range(COUNT):
        write_clevrer_proposal(root, number, masks)
    batch = everything(open_reader(root, num_frames=None, masks=True, max_num_objects=3))
    assert batch["mask"].shape == (COUNT, LENGTH, *SIZE)
    assert batch["bbox"].shape == (COUNT, LENGTH, 4, 4)
    assert [batch[key].dtype for key in ("mask", "bbox", "visible")] == [np.uint8, np.float32, bool]
    small = [resize_labels(mask[None], SIZE)[0] for mask in MASKS]
    assert [int(mask.sum()) for mask in small] == [8 * 8, 10 * 10, 0, 1]
    expected = np.select([small[0] > 0, small[1] > 0, small[3] > 0], [1, 2, 4])
    np.testing.assert_array_equal(batch["mask"][1, 0], expected)
    # Boxes know nothing of the overlap, and the mask that vanished leaves no gap.
    boxes = [[2, 2, 9, 9], [4, 5, 13, 14], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(batch["bbox"][1, 0], boxes)
    assert batch["visible"][1, :3].tolist() == [[True, True, True, False], [False] * 4, [True, False, False, False]]
    assert batch["mask"][0, 1].max() == 0
    np.testing.assert_array_equal(batch["mask"][2, 2], small[1])


def test_more_objects_than_there_is_room_for(root):
    write_clevrer_proposal(root, 0, [MASKS] * LENGTH)
    message = r"proposal_00000\.json: frame 0 has 3 objects, expected at most 2\. Raise max_num_objects"
    with pytest.raises(DataError, match=message):
        open_reader(root, masks=True, max_num_objects=1).read(np.array([0]))


def test_clips_without_entrances(root, cache):
    inside = np.ones((LENGTH, 2), bool)
    inside[:7, 1] = False
    for number in range(COUNT):
        write_clevrer_annotation(root, "train", number, inside if number == 1 else inside[:, :1])
    source = open_reader(root, filter_enter=True, warmup_len=4)
    # Frame 7 must not be among the last two of a clip of four.
    starts = {0: [0, 1, 2, 3, 4, 5, 6], 1: [0, 1, 2, 3, 6], 2: [0, 1, 2, 3, 4, 5, 6]}
    assert source.clips.tolist() == [[video, start] for video in starts for start in starts[video]]
    assert open_reader(root, filter_enter=True, warmup_len=4).clips.tolist() == source.clips.tolist()
    assert len(list(cache.glob("*.npy"))) == 1


def test_the_video_with_the_broken_annotation_is_left_out(tmp_path):
    for number in range(10797, 10803):
        path = clevrer_mp4(tmp_path, "val", number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names = open_reader(tmp_path, "val").names
    assert names == [f"video_{number}.mp4" for number in (10797, 10798, 10799, 10801, 10802)]
    clevrer_mp4(tmp_path, "val", 10800).unlink()
    assert open_reader(tmp_path, "val").names == names


def test_a_gap_in_the_numbering(root):
    clevrer_mp4(root, "train", 1).unlink()
    with pytest.raises(DataError, match=r"train: video_00001\.mp4 is missing \(1 in all .* unpack it again"):
        open_reader(root)


def test_half_copied_videos(root, cache):
    path = clevrer_mp4(root, "train", 2)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"video_00002\.mp4: .*fetch or make it again"):
        open_reader(root).read(np.array([0]))
    folder = write_frames(path.with_suffix(""), VIDEOS[2][:6])
    with pytest.raises(DataError, match=r"video_00002/000006\.png: no such file; its folder holds 6 files"):
        open_reader(root).read(np.array([0]))
    write_frames(folder, VIDEOS[2])
    assert everything(open_reader(root))["video"].shape[0] == COUNT * 7
    assert len(list(cache.glob("*.npy"))) == 1


def test_no_videos(tmp_path):
    with pytest.raises(
        DataError, match=r"videos/test: no video_AAAAA-BBBBB/video_NNNNN\.mp4 .*clevrer\.csail\.mit\.edu"
    ):
        Clevrer(tmp_path, "test")
    with pytest.raises(ValueError, match="CLEVRER split 'validation' is not one of train, val, test"):
        Clevrer(tmp_path, "validation")


def test_an_object_enters_in_every_clip(root):
    inside = np.tril(np.ones((LENGTH, LENGTH), bool))  # one in every frame
    for number in range(COUNT):
        write_clevrer_annotation(root, "train", number, inside)
    with pytest.raises(DataError, match=rf"in each of the {COUNT} videos .* Use shorter clips or more videos, or set"):
        open_reader(root, filter_enter=True, warmup_len=1)


def test_annotations_that_are_not_there(root):
    with pytest.raises(
        DataError, match=r"annotations/train: no such folder, but filter_enter .*none of the test split"
    ):
        open_reader(root, filter_enter=True)
    write_clevrer_annotation(root, "train", 0, np.ones((LENGTH, 2)))
    with pytest.raises(DataError, match=r"annotation_00001\.json: no such file\. Unpack"):
        open_reader(root, filter_enter=True)


def test_proposals_that_are_not_there(root):
    with pytest.raises(DataError, match=r"derender_proposals: no such folder, but masks are asked for\. Read"):
        open_reader(root, masks=True)
    for number in range(COUNT - 1):
        write_clevrer_proposal(root, number, [MASKS] * LENGTH)
    with pytest.raises(DataError, match=r"proposal_00002\.json: no such file\. Unpack"):
        open_reader(root, masks=True).read(np.array([0]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-40], r"not a readable JSON file .*damaged"),
        (lambda text: "[]", r"not a readable JSON file with a list 'frames'"),
        (lambda text: json.dumps({"frames": json.loads(text)["frames"][:5]}), r"frames holds 5 frames, expected 10"),
        (
            lambda text: text.replace('"counts": "', '"counts": "9'),
            r"the masks of frame 0 are not as expected .*pixels",
        ),
        (lambda text: text.replace("[32, 48]", "[32, 49]"), r"the masks of frame 0 are not as expected .*pixels"),
        (lambda text: text.replace('"counts"', '"count"'), r"the masks of frame 0 are not as expected .*counts"),
    ],
)
def test_damaged_proposals(root, damage, message):
    for number in range(COUNT):
        path = write_clevrer_proposal(root, number, [MASKS] * LENGTH)
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=r"proposal_00002\.json: " + message):
        open_reader(root, masks=True).read(np.array([0]))


@settings(max_examples=80)
@given(height=st.integers(1, 24), width=st.integers(1, 24), density=st.floats(0, 1), seed=st.integers(0, 99))
def test_run_lengths_come_back(height, width, density, seed):
    mask = np.random.default_rng(seed).random((height, width)) < density
    counts = encode_run_lengths(mask)
    assert all(48 <= ord(character) < 112 for character in counts)
    np.testing.assert_array_equal(decode_run_lengths(counts, (height, width)), mask)


def test_run_lengths_worked_by_hand():
    # Columns: 0 1 1, 1 0 0, 0 0 0: runs 1, 3, 5, in characters of one group each.
    mask = np.array([[0, 1, 0], [1, 0, 0], [1, 0, 0]])
    assert encode_run_lengths(mask.astype(np.uint8)) == "135"
    # From the fourth run on differences: 0, 1, 1, 1, 6 is 0, 1, 1, 1 - 1, 6 - 1.
    assert encode_run_lengths(np.array([[1], [0], [1], *[[0]] * 6], np.uint8)) == "01105"
    # 100 = 4 + 32 * 3: two groups, the first marked by 32. A difference of -98 is 30 + 32 * -4.
    column = np.repeat(np.array([0, 1, 0, 1], np.uint8), [100, 100, 2, 2])[:, None]
    assert encode_run_lengths(column) == "T3T32n" + chr(48 + 28)
    np.testing.assert_array_equal(decode_run_lengths("T3T32nL", (204, 1)), column != 0)


@pytest.mark.parametrize(
    ("counts", "message"), [("13", "cover 4 pixels, not 3 x 3"), ("1\x7f", "no character"), ("T", "cover 0 pixels")]
)
def test_run_lengths_that_do_not_fit(counts, message):
    with pytest.raises(ValueError, match=message):
        decode_run_lengths(counts, (3, 3))
