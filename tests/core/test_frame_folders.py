"""Folders of frames made of mp4 files, by function and by the two commands of SlotFormer."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data.clevrer import Clevrer
from core.data.errors import DataError
from core.data.frame_folders import extract_frames
from core.data.physion import FOLDERS
from core.data.video import read_mp4
from tests.video_files import clevrer_mp4, smooth_frames, write_json, write_mp4

ROOT = Path(__file__).parents[2]
COMMANDS = "slotformer/scripts/data_preproc"
LENGTH = 5
FRAMES = smooth_frames(LENGTH, 160, 240)


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def read(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / name)) for name in names_in(folder)])


def write_videos(root: Path, count: int) -> list[Path]:
    return [write_mp4(root / f"video_{number}.mp4", smooth_frames(LENGTH, 32, 48, number)) for number in range(count)]


@pytest.mark.parametrize(("max_frames", "count"), [(None, 5), (3, 3), (200, 5)])
def test_frames_are_those_of_the_video(tmp_path, max_frames, count):
    path = write_mp4(tmp_path / "video.mp4", FRAMES)
    result = extract_frames(tmp_path, [path], max_frames)
    assert (result.written, result.already_there, result.failures) == (1, 0, [])
    assert names_in(tmp_path / "video") == [f"{number:06d}.jpg" for number in range(count)]
    found = read(tmp_path / "video").astype(int)
    assert found.shape == (count, 128, 128, 3)
    difference = np.abs(found - read_mp4(path, count))
    assert difference.mean() < 2
    assert np.abs(found[..., ::-1] - read_mp4(path, count)).mean() > 5 * difference.mean()


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers(tmp_path, workers):
    videos = write_videos(tmp_path, 3)
    assert extract_frames(tmp_path, videos, workers=workers).written == 3
    for number, path in enumerate(videos):
        found = read(path.with_suffix("")).astype(int)
        assert np.abs(found - smooth_frames(LENGTH, 32, 48, number)).mean() < 4


def test_what_is_complete_is_left_alone_and_what_is_not_is_made_anew(tmp_path):
    videos = write_videos(tmp_path, 3)
    extract_frames(tmp_path, videos)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("video_*/*.jpg")}
    (tmp_path / "video_1" / "000004.jpg").unlink()
    (tmp_path / ".video_2.partial").mkdir()
    (tmp_path / ".video_2.partial" / "000009.jpg").touch()
    result = extract_frames(tmp_path, videos)
    assert (result.written, result.already_there) == (1, 2)
    changed = {path.parent.name for path, stamp in times.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {"video_1"}
    assert len(names_in(tmp_path / "video_1")) == LENGTH
    assert extract_frames(tmp_path, videos).already_there == 3


def test_a_damaged_video_is_reported_and_the_others_are_extracted(tmp_path):
    videos = write_videos(tmp_path, 4)
    videos[1].write_bytes(videos[1].read_bytes()[:700])
    videos[2].unlink()
    result = extract_frames(tmp_path, videos)
    assert (result.written, len(result.failures)) == (2, 2)
    assert "video_1.mp4: not readable as a video" in result.failures[0]
    assert "video_2.mp4: no such file" in result.failures[1]
    assert names_in(tmp_path) == [
        ".video2frames.lock",
        "video_0",
        "video_0.mp4",
        "video_1.mp4",
        "video_3",
        "video_3.mp4",
    ]


def test_folders_whose_video_is_gone_stay(tmp_path):
    videos = write_videos(tmp_path, 1)
    extract_frames(tmp_path, videos)
    videos[0].unlink()
    assert extract_frames(tmp_path, videos).already_there == 1


def test_one_process_at_a_time(tmp_path):
    videos = write_videos(tmp_path, 1)
    with (tmp_path / ".video2frames.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process extracts frames there"):
            extract_frames(tmp_path, videos)
    assert extract_frames(tmp_path, videos).written == 1


@pytest.fixture
def clevrer(tmp_path) -> Path:
    root = tmp_path / "CLEVRER"
    for split, number in (("train", 0), ("train", 1), ("val", 10000), ("test", 15000)):
        write_mp4(clevrer_mp4(root, split, number), smooth_frames(LENGTH, 32, 48, number))
    return root


def test_the_command_for_clevrer(clevrer, run, tmp_path, monkeypatch):
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    settings = {"num_frames": 2, "video_len": LENGTH, "size": (32, 48)}
    before = Clevrer(clevrer, "train", **settings).read(np.arange(8))["video"].numpy()
    done = run(f"{COMMANDS}/clevrer_video2frames.py", "--root", clevrer, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "4 videos extracted, 0 already there, 0 failed" in done.stdout
    done = run(f"{COMMANDS}/clevrer_video2frames.py", "--root", clevrer, "--workers", 1)
    assert "0 videos extracted, 4 already there, 0 failed" in done.stdout
    for path in clevrer.rglob("*.mp4"):
        path.unlink()
    after = Clevrer(clevrer, "train", **settings).read(np.arange(8))["video"].numpy()
    assert 0 < np.abs(after.astype(int) - before).mean() < 4


def test_the_command_for_clevrer_says_what_failed(clevrer, run, tmp_path):
    clevrer_mp4(clevrer, "val", 10000).write_bytes(b"half")
    done = run(f"{COMMANDS}/clevrer_video2frames.py", "--root", clevrer, "--workers", 1)
    assert done.returncode == 1
    assert "3 videos extracted, 0 already there, 1 failed" in done.stdout
    assert "video_10000.mp4: not readable as a video" in done.stderr
    done = run(f"{COMMANDS}/clevrer_video2frames.py", "--root", tmp_path)
    assert done.returncode == 1
    assert "no videos/<train, val or test>/video_AAAAA-BBBBB/video_NNNNN.mp4 in it. Set --root" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_for_physion(tmp_path, run):
    for subset, split in (("training", "train"), ("training", "val"), ("readout", "train"), ("readout", "val")):
        path = f"{FOLDERS[subset].format('Roll')}/{split}_img.mp4"
        write_json(tmp_path / "splits" / f"{subset}_{split}.json", {"Roll": [path]})
        write_mp4(tmp_path / path, smooth_frames(202, 16, 16))
    words = (f"{COMMANDS}/physion_video2frames.py", "--root", tmp_path, "--workers", 1)
    done = run(*words, "--subset", "training", "--subset", "readout")
    assert done.returncode == 0, done.stderr
    assert "4 videos extracted, 0 already there, 0 failed" in done.stdout
    assert len(names_in(tmp_path / "PhysionTrainMP4s/Roll_readout_MP4s/val_img")) == 200
    done = run(*words, "--subset", "test")
    assert done.returncode == 1
    assert "1,200 failed" in done.stdout
    assert "and 1,180 more" in done.stderr
    assert "mp4s-redyellow/" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"), [(("--root", "/nowhere"), "--root: no folder /nowhere"), (("--workers", 0), "at least 1")]
)
def test_wrong_flags(run, tmp_path, words, message):
    done = run(f"{COMMANDS}/clevrer_video2frames.py", "--root", tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_killed_command_is_continued(tmp_path, run):
    root = tmp_path / "CLEVRER"
    for number in range(30):
        write_mp4(clevrer_mp4(root, "train", number), smooth_frames(60, 64, 64, number))
    folder = clevrer_mp4(root, "train", 0).parent
    command = [sys.executable, f"{COMMANDS}/clevrer_video2frames.py", "--root", str(root), "--workers", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (folder / "video_00002").exists() and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    assert 3 <= len(there) < 30
    assert {len(names_in(path)) for path in there} == {60}
    done = run(*command[1:])
    assert done.returncode == 0, done.stderr
    assert f"{30 - len(there)} videos extracted, {len(there)} already there" in done.stdout
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 30
