"""Enumerations of clips, checked against their definitions by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.clips import (
    block_starts,
    cut_clips,
    enter_times,
    every_start,
    first_start,
    starts_without_entrance,
    visualised_videos,
)

few = st.integers(1, 12)
lengths = st.integers(1, 60)


@given(videos=few, length=lengths, frames=few, offset=st.integers(1, 5))
def test_every_start_is_all_clips_that_fit(videos, length, frames, offset):
    fitting = [start for start in range(length) if start + (frames - 1) * offset < length]
    expected = [[video, start] for video in range(videos) for start in fitting]
    assert every_start(videos, length, frames, offset).tolist() == expected


@given(videos=few, length=lengths, frames=few, offset=st.integers(1, 5))
def test_blocks_show_every_frame_at_most_once(videos, length, frames, offset):
    clips = block_starts(videos, length, frames, offset)
    shown = [(video, start + step * offset) for video, start in clips for step in range(frames)]
    assert len(set(shown)) == len(shown)
    # All of every whole block, and nothing of the rest.
    whole = length // (frames * offset) * frames * offset
    assert set(shown) == {(video, frame) for video in range(videos) for frame in range(whole)}


def test_published_lengths():
    assert len(every_start(2920, 50, 6, 1)) == 2920 * 45
    assert len(every_start(10_000, 128, 6, 1)) == 10_000 * 123
    assert block_starts(1, 150, 25, 3)[:, 1].tolist() == [0, 1, 2, 75, 76, 77]
    assert block_starts(1, 128, 16, 2)[:, 1].tolist() == [0, 1, 32, 33, 64, 65, 96, 97]
    assert first_start(3).tolist() == [[0, 0], [1, 0], [2, 0]]


@pytest.mark.parametrize("clips", [every_start(3, 5, 6, 1), block_starts(3, 5, 2, 3), first_start(0)])
def test_nothing_fits(clips):
    assert clips.shape == (0, 2)


def test_objects_enter_when_they_come_into_view():
    inside = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]], bool)
    assert enter_times(inside).tolist() == [1, 3, 4, 5]
    assert enter_times(np.zeros((6, 0), bool)).tolist() == []
    # Being there from the start is no entrance.
    assert enter_times(np.ones((6, 2), bool)).tolist() == []


@settings(max_examples=60)
@given(
    times=st.lists(st.lists(st.integers(1, 59), max_size=4), min_size=1, max_size=3),
    frames=st.integers(2, 10),
    offset=st.integers(1, 3),
    warmup=st.integers(3, 6),
)
def test_no_object_enters_while_a_clip_is_predicted(times, frames, offset, warmup):
    entrances = [np.array(sorted(set(video)), np.int64) for video in times]
    kept = starts_without_entrance(entrances, 60, frames, offset, warmup, is_training=True).tolist()
    for video, start in every_start(len(entrances), 60, frames, offset).tolist():
        unforeseen = range(start + (warmup - 3) * offset + 1, start + (frames - 1) * offset + 1)
        assert ([video, start] in kept) == (not set(unforeseen) & set(entrances[video].tolist()))
    evaluated = starts_without_entrance(entrances, 60, frames, offset, warmup, is_training=False).tolist()
    assert all(clip in kept for clip in evaluated)
    interval, end = max((frames - 1) * offset // 2, 1), 60 - (frames - 1) * offset
    for video in range(len(entrances)):
        for begin in range(0, end, interval):
            block = [start for start in range(begin, min(begin + interval, end)) if [video, start] in kept]
            assert [start for start in block if [video, start] in evaluated] == block[:1]


@pytest.mark.parametrize(("samples", "videos", "expected"), [(5, 100, 5), (5, 101, 5), (8, 798, 7), (9, 4, 4)])
def test_visualised_videos_are_spread_evenly(samples, videos, expected):
    chosen = visualised_videos(samples, videos)
    assert len(chosen) == expected
    assert chosen[0] == 0
    assert len(set(np.diff(chosen))) == 1
    assert chosen[-1] < videos


def test_no_videos_are_shown_if_none_are_asked_for():
    assert visualised_videos(0, 7).tolist() == []


def test_clips_are_cut_out_and_copied():
    videos = np.arange(3 * 20 * 2, dtype=np.uint8).reshape(3, 20, 2)
    videos.flags.writeable = False
    cut = cut_clips(videos, np.array([[2, 1], [0, 0], [2, 1]]), 4, 5)
    np.testing.assert_array_equal(cut, np.stack([videos[2, 1:17:5], videos[0, 0:16:5], videos[2, 1:17:5]]))
    assert cut.shape == (3, 4, 2)
    cut[:] = 0
    assert videos.max() == 119
