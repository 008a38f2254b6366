"""Which clips of a set of videos are its samples: pure functions of lengths, in the order of the original loaders.

A clip is a row (video, first frame); its `num_frames` frames lie `offset` apart.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64, Shaped

Clips = Int64[np.ndarray, "C 2"]


def every_start(num_videos: int, video_len: int, num_frames: int, offset: int) -> Clips:
    """Every clip that fits: what all data sets train on."""
    return _for_each_video(num_videos, range(video_len - (num_frames - 1) * offset))


def first_start(num_videos: int) -> Clips:
    """One clip a video, from its first frame: OBJ3D in validation, MOVi in testing, and whole videos."""
    return _for_each_video(num_videos, range(1))


def block_starts(num_videos: int, video_len: int, num_frames: int, offset: int) -> Clips:
    """Blocks of num_frames * offset frames side by side, `offset` interleaved clips in each: CLEVRER, Physion, MOVi."""
    block = num_frames * offset
    begins = range(0, video_len - block + 1, block)
    return _for_each_video(num_videos, [begin + phase for begin in begins for phase in range(offset)])


def _for_each_video(num_videos: int, starts: Sequence[int]) -> Clips:
    return _rows([(video, start) for video in range(num_videos) for start in starts])


def _rows(pairs: Sequence[tuple[int, int]]) -> Clips:
    return np.array(pairs, np.int64).reshape(-1, 2)


def enter_times(inside_view: Bool[np.ndarray, "T O"]) -> Int64[np.ndarray, "E"]:
    """Frames at which some object is in view that was not in view one frame before."""
    enters = (inside_view[1:] & ~inside_view[:-1]).any(axis=1)
    return np.flatnonzero(enters).astype(np.int64) + 1


def starts_without_entrance(
    entrances: Sequence[Int64[np.ndarray, "_"]],
    video_len: int,
    num_frames: int,
    offset: int,
    warmup_len: int,
    is_training: bool,
) -> Clips:
    """Clips during whose predicted part no object enters, which nobody could foresee (SlotFormer's `filter_enter`).

    A clip is dropped if an object enters after its frame number `warmup_len` - 3 and not after its last one:
    `warmup_len` frames are seen, and the object must be in view for the last three of them. In training all others
    remain; else the first of them in each half length of a clip. `entrances` are the `enter_times` of each video.
    """
    length = (num_frames - 1) * offset
    ends = video_len - length
    step = 1 if is_training else max(length // 2, 1)
    clips = []
    for video, times in enumerate(entrances):
        accepted = [
            not np.any((times > start + (warmup_len - 3) * offset) & (times <= start + length))
            for start in range(max(ends, 0))
        ]
        for begin in range(0, ends, step):
            first = next((start for start in range(begin, min(begin + step, ends)) if accepted[start]), None)
            if first is not None:
                clips.append((video, first))
    return _rows(clips)


def visualised_videos(num_samples: int, num_videos: int) -> Int64[np.ndarray, "N"]:
    """Videos spread evenly over a set, that the original trainers draw; one more or fewer than asked for may come.

    None if none are asked for.
    """
    if num_samples == 0:
        return np.zeros(0, np.int64)
    if num_videos % num_samples:
        num_samples -= 1
    return np.arange(0, num_videos, max(num_videos // num_samples, 1))


def cut_clips(
    videos: Shaped[np.ndarray, "V L *rest"], clips: Clips, num_frames: int, offset: int
) -> Shaped[np.ndarray, "C T *rest"]:
    """The frames of `clips`, copied out of a (memory-mapped) array of videos."""
    frames = clips[:, 1:] + np.arange(num_frames) * offset
    return np.asarray(videos[clips[:, :1], frames])
