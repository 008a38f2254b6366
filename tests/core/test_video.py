"""Reading, resizing and caching of videos; whatever is wrong with a file is said of that file."""

import itertools
import os
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from core.data import video
from core.data.errors import DataError
from core.data.video import (
    bilinear,
    decode_video,
    decoded_once,
    folder_or_mp4,
    mp4_frames,
    read_mp4,
    read_picture,
    read_pictures,
    read_video,
    resize_frames,
    resize_labels,
)
from tests.video_files import smooth_frames, write_frames, write_mp4

COUNT, HEIGHT, WIDTH = 7, 48, 64
FRAMES = smooth_frames(COUNT, HEIGHT, WIDTH)
STEMS = [f"{number:06d}" for number in range(COUNT)]
CODEC_LOSS = 12  # of 255 at most, at the quality that the tests write
AGAIN = "fetch or make it again"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("faststart", [False, True])
def test_an_mp4_gives_the_frames_that_were_written(tmp_path, faststart):
    path = write_mp4(tmp_path / "video.mp4", FRAMES, faststart)
    found = np.stack(list(mp4_frames(path)))
    assert (found.shape, found.dtype) == (FRAMES.shape, np.uint8)
    difference = np.abs(found.astype(int) - FRAMES)
    assert difference.max() <= CODEC_LOSS
    assert difference.mean() < 2
    # Not frame t + 1 nor the channels in another order.
    assert np.abs(found[:-1].astype(int) - FRAMES[1:]).mean() > 3 * difference.mean()
    assert np.abs(found[..., ::-1].astype(int) - FRAMES).mean() > 3 * difference.mean()
    np.testing.assert_array_equal(read_mp4(path, 4), found[:4])


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_videos_of_telephones_are_upright(tmp_path, matrix, turns):
    path = write_mp4(tmp_path / "video.mp4", FRAMES)
    stored = np.stack(list(mp4_frames(path)))
    content = bytearray(path.read_bytes())
    # A pixel (x, y) is shown at (a x + c y, b x + d y), y downwards: see "Track Header Box" in ISO/IEC 14496-12.
    a, b, c, d = matrix
    begin = content.index(b"tkhd") + 44
    content[begin : begin + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    np.testing.assert_array_equal(np.stack(list(mp4_frames(path))), np.rot90(stored, turns, axes=(1, 2)))


def test_larger_frames_of_an_mp4_pass_through_the_size_of_extracted_ones(tmp_path):
    frames = smooth_frames(3, 160, 240)
    path = write_mp4(tmp_path / "video.mp4", frames)
    whole = np.stack(list(mp4_frames(path)))
    found = read_mp4(path, 3)
    assert found.shape == (3, 128, 128, 3)
    np.testing.assert_array_equal(found, resize_frames(whole, (128, 128)))
    assert np.abs(found - resize_frames(frames, (128, 128)).astype(float)).max() <= CODEC_LOSS


@pytest.mark.parametrize("size", [(24, 32), (32, 32), (HEIGHT, WIDTH)])
def test_an_mp4_and_a_folder_of_its_frames_are_the_same_video(tmp_path, size):
    path = write_mp4(tmp_path / "video.mp4", FRAMES)
    assert folder_or_mp4(path) == path
    write_frames(tmp_path / "elsewhere", read_mp4(path, COUNT))
    from_mp4 = decode_video(path, STEMS, size)
    np.testing.assert_array_equal(decode_video(tmp_path / "elsewhere", STEMS, size), from_mp4)
    write_frames(tmp_path / "video", read_mp4(path, COUNT))
    assert folder_or_mp4(path) == tmp_path / "video"


def test_frames_may_be_jpg_whatever_is_in_the_files(tmp_path):
    write_frames(tmp_path / "video", FRAMES, "{:06d}.jpg", file_format="PNG")
    np.testing.assert_array_equal(read_video(tmp_path / "video", STEMS), FRAMES)
    write_frames(tmp_path / "lossy", FRAMES, "{:06d}.jpg")
    found = read_video(tmp_path / "lossy", STEMS).astype(int)
    assert 0 < np.abs(found - FRAMES).mean() < 4


@pytest.mark.parametrize("faststart", [False, True])
def test_a_truncated_mp4_names_itself_and_never_passes(tmp_path, faststart):
    whole = write_mp4(tmp_path / "whole.mp4", FRAMES, faststart).read_bytes()
    path = tmp_path / "cut.mp4"
    end = len(whole) if faststart else len(whole) - 200  # the index ends with a comment
    for length in [0, 1, 40, *range(100, end, 97)]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"cut\.mp4: .*{AGAIN}"):
            list(mp4_frames(path))


def test_a_damaged_mp4_names_itself(tmp_path):
    path = write_mp4(tmp_path / "video.mp4", smooth_frames(40, 128, 128))
    whole, before = path.read_bytes(), read_mp4(path, 40)
    messages, unnoticed = [], 0
    for position in range(1000, len(whole) - 4500, 1200):
        hole = slice(position, position + 1024)
        path.write_bytes(whole[: hole.start] + bytes(1024) + whole[hole.stop :])
        try:
            unnoticed += not np.array_equal(read_mp4(path, 40), before)
        except DataError as error:
            messages.append(str(error))
    assert all(message.startswith(f"{path}: ") and "again" in message for message in messages)
    # The code has no checksums: damage that reads as another picture cannot be told.
    assert len(messages) > 25
    assert len(messages) > 4 * unnoticed


def test_a_short_mp4_says_how_many_frames_it_has(tmp_path):
    path = write_mp4(tmp_path / "video.mp4", FRAMES)
    with pytest.raises(DataError, match=r"video\.mp4: holds 7 frames, expected at least 9\. Fetch or make"):
        read_mp4(path, 9)


def test_an_mp4_that_is_not_there_or_none(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.mp4: no such file\. Fetch"):
        read_mp4(tmp_path / "nowhere.mp4", 1)
    (tmp_path / "text.mp4").write_text("404 not found\n" * 50)
    with pytest.raises(DataError, match=rf"text\.mp4: not readable as a video .*{AGAIN}"):
        read_mp4(tmp_path / "text.mp4", 1)


def test_a_missing_frame_is_named_and_how_many_there_are(tmp_path):
    folder = write_frames(tmp_path / "video", FRAMES)
    (folder / "000004.png").unlink()
    with pytest.raises(DataError, match=r"video/000004\.png: no such file; its folder holds 6 files\. .* do it again"):
        read_video(folder, STEMS)
    with pytest.raises(DataError, match=r"nowhere/000000\.jpg: no such file, nor its folder nowhere/"):
        read_video(tmp_path / "nowhere", STEMS)


@pytest.mark.parametrize("name", ["{:06d}.png", "{:06d}.jpg"])
def test_a_truncated_frame_is_named(tmp_path, name):
    folder = write_frames(tmp_path / "video", FRAMES, name)
    path = folder / name.format(3)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 30, 71):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"video/{path.name}: cannot be read as a picture .*again"):
            read_video(folder, STEMS)


def test_frames_of_one_video_have_one_size(tmp_path):
    folder = write_frames(tmp_path / "video", FRAMES)
    Image.fromarray(FRAMES[0, :, :9]).save(folder / "000002.png")
    with pytest.raises(DataError, match=r"000002\.png: is 9x48, but 000000\.png is 64x48\."):
        read_video(folder, STEMS)


def test_grey_and_palette_and_alpha_are_read_as_colours(tmp_path):
    Image.fromarray(FRAMES[0, :, :, 0]).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack((FRAMES[0], np.full((HEIGHT, WIDTH), 9, np.uint8)))).save(tmp_path / "alpha.png")
    found = read_pictures([tmp_path / "grey.png", tmp_path / "alpha.png"])
    np.testing.assert_array_equal(found[0], FRAMES[0, :, :, :1].repeat(3, axis=-1))
    np.testing.assert_array_equal(found[1], FRAMES[0])


def test_masks_have_one_channel_and_keep_the_indices_of_a_palette(tmp_path):
    labels = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 11).astype(np.uint8)
    picture = Image.fromarray(labels)
    picture.putpalette([value for entry in range(256) for value in (255 - entry, entry, 7)])
    picture.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "mask.png", "L"), labels)
    Image.fromarray(FRAMES[0]).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"mask\.png: a mask has one byte per pixel, this picture is RGB"):
        read_picture(tmp_path / "mask.png", "L")


sides = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, size=st.tuples(sides, sides), seed=st.integers(0, 99))
def test_bilinear_is_torchs_without_antialiasing(height, width, size, seed):
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    tensor = torch.from_numpy(frame).permute(2, 0, 1)[None].double()
    expected = functional.interpolate(tensor, size, mode="bilinear", align_corners=False, antialias=False)[0]
    np.testing.assert_allclose(bilinear(frame, size), expected.permute(1, 2, 0).numpy(), rtol=0, atol=1e-3)


def test_half_the_size_is_the_mean_of_four_pixels():
    half = bilinear(FRAMES[0], (HEIGHT // 2, WIDTH // 2))
    np.testing.assert_array_equal(half, FRAMES[0].reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3)))
    rounded = resize_frames(FRAMES[:1], (HEIGHT // 2, WIDTH // 2))[0]
    assert rounded.dtype == np.uint8
    np.testing.assert_array_equal(rounded, np.rint(half))


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, size=st.tuples(sides, sides))
def test_labels_are_picked_as_torch_picks_them(height, width, size):
    labels = (np.arange(height * width) % 256).astype(np.uint8).reshape(1, height, width)
    expected = functional.interpolate(torch.from_numpy(labels)[None].double(), size, mode="nearest")[0]
    np.testing.assert_array_equal(resize_labels(labels, size), expected.numpy())


def write_videos(root: Path, count: int) -> list[Path]:
    return [write_frames(root / str(number), smooth_frames(COUNT, 8, 12, number)) for number in range(count)]


def decode(source: Path) -> np.ndarray:
    return decode_video(source, STEMS, (4, 6))


def test_videos_are_decoded_once_in_their_order(tmp_path, cache):
    sources = write_videos(tmp_path / "set", 23)
    decoded = decoded_once(tmp_path / "set", "video", sources, (COUNT, 4, 6, 3), decode, STEMS)
    assert isinstance(decoded, np.memmap)
    assert not decoded.flags.writeable
    np.testing.assert_array_equal(decoded, np.stack([decode(source) for source in sources]))

    def fail(source: Path) -> np.ndarray:
        raise AssertionError(f"{source} decoded twice")

    again = decoded_once(tmp_path / "set", "video", sources, (COUNT, 4, 6, 3), fail, STEMS)
    np.testing.assert_array_equal(again, decoded)
    assert len(list(cache.glob("*.npy"))) == 1
    assert not list(cache.glob(".*.partial"))


def replace_last_frame(sources: list[Path]) -> list[Path]:
    path = sources[1] / f"{STEMS[-1]}.png"
    stamp = path.stat()
    folder = path.parent.stat()
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    os.utime(path.parent, ns=(folder.st_atime_ns, folder.st_mtime_ns))
    return sources


def rename_video(sources: list[Path]) -> list[Path]:
    return [sources[0], sources[1].rename(sources[1].with_name("another")), sources[2]]


def add_file(sources: list[Path]) -> list[Path]:
    (sources[2] / "000099.png").touch()
    return sources


@pytest.mark.parametrize("change", [replace_last_frame, rename_video, add_file, lambda sources: sources[:2]])
def test_changed_videos_are_decoded_anew(tmp_path, cache, change):
    sources = write_videos(tmp_path / "set", 3)
    decoded_once(tmp_path / "set", "video", sources, (COUNT, 4, 6, 3), decode, STEMS)
    sources = change(sources)
    decoded = decoded_once(tmp_path / "set", "video", sources, (COUNT, 4, 6, 3), decode, STEMS)
    np.testing.assert_array_equal(decoded, np.stack([decode(source) for source in sources]))
    assert len(list(cache.glob("*.npy"))) == 2


def test_a_failure_leaves_nothing_behind_and_names_the_first_video(tmp_path, cache):
    sources = write_videos(tmp_path / "set", 12)
    for number in (7, 9):
        (sources[number] / "000002.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"set/7/000002\.png: cannot be read"):
        decoded_once(tmp_path / "set", "video", sources, (COUNT, 4, 6, 3), decode, STEMS)
    assert not list(cache.glob("*.npy"))
    assert not list(cache.glob(".*.partial"))


def test_a_source_that_cannot_be_read_is_not_taken_for_the_cache(tmp_path, cache):
    sources = write_videos(tmp_path / "set", 2)

    def fail(source: Path) -> np.ndarray:
        raise OSError(5, "Input/output error", str(source))

    with pytest.raises(DataError, match=r"set/0: cannot be read \(Input/output error\)\. Fetch or make it again"):
        decoded_once(tmp_path / "set", "video", sources, (COUNT, 4, 6, 3), fail, STEMS)
    assert not list(cache.glob("*.npy"))


def test_a_video_of_another_shape_is_refused(tmp_path):
    sources = write_videos(tmp_path / "set", 2)
    with pytest.raises(DataError, match=r"set/0: decodes to \[7, 4, 6, 3\], expected \[7, 4, 4, 3\]"):
        decoded_once(tmp_path / "set", "video", sources, (COUNT, 4, 4, 3), decode, STEMS)


def test_a_disk_without_room_says_so_before_it_is_full(tmp_path, cache):
    sources = write_videos(tmp_path / "set", 2)
    with pytest.raises(DataError, match=r"set: takes 42,000\.0 GB once decoded, but .*cache has .*OBJECTCENTRIC_CACHE"):
        decoded_once(tmp_path / "set", "video", sources, (COUNT, 1_000_000, 1_000_000, 3), decode, STEMS)
    assert not list(cache.glob("*.npy"))


def test_few_videos_are_held_at_a_time(tmp_path):
    sources = write_videos(tmp_path / "set", 40)
    begun = itertools.count()
    ahead = []

    def slow(source: Path, record: list) -> np.ndarray:
        record.append(next(begun))
        return decode(source)

    record: list = []
    for taken, _ in enumerate(video._in_order(partial(slow, record=record), sources, (COUNT, 4, 6, 3))):
        ahead.append(len(record) - taken)
    assert len(record) == 40
    assert max(ahead) <= 2 * video.MOST_THREADS + 1
