"""What films of moving bodies are made of, and the files that they are kept in."""

from pathlib import Path

import numpy as np

from core.data.video import mp4_frames
from core.synth.physics import Motion
from core.synth.scene import Camera
from core.synth.videos import STIRRED, drawn_frames
from core.viz.videos import encode_mp4
from tests.video_files import smooth_frames


def test_frames_in_which_nothing_moves_are_drawn_once():
    positions = np.zeros((6, 1, 3))
    positions[:, 0, 0] = [0, STIRRED / 2, STIRRED, 1.5 * STIRRED, 5, 5]
    rotations = np.broadcast_to(np.array([1.0, 0, 0, 0]), (6, 1, 4))
    motion = Motion(positions, rotations, positions, positions, (), np.zeros((6, 1, 1), bool), 0.0)
    still, other = Camera((6.0, 0.0, 3.0)), Camera((6.0, 0.0, 4.0))
    assert drawn_frames(motion, [still] * 6) == [0, 0, 0, 3, 4, 4]
    assert drawn_frames(motion, [still, other, other, still, still, other]) == [0, 1, 1, 3, 4, 5]


def test_colours_survive_the_codec_and_bytes_are_the_same_every_time(tmp_path: Path):
    frames = smooth_frames(5, 64, 96)
    path = tmp_path / "video.mp4"
    path.write_bytes(encode_mp4(list(frames), 12.5))
    read = np.stack(list(mp4_frames(path)))
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).mean() < 2
    assert {encode_mp4(list(frames), 12.5) for _ in range(20)} == {path.read_bytes()}
