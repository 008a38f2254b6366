"""The multi-object .h5 reader: every layout gives the same samples, and every kind of damage a message."""

import multiprocessing
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from core.data.cache import cached_rows
from core.data.errors import DataError
from core.data.loader import TrainingLoader
from core.data.multi_object_h5 import MultiObjectH5

# More rows than are decoded at a time.
COUNT, HEIGHT, WIDTH, NUM_ENTITIES = 150, 12, 10, 4
_rng = np.random.default_rng(0)
IMAGES = _rng.integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
LABELS = _rng.integers(0, NUM_ENTITIES, (COUNT, HEIGHT, WIDTH), dtype=np.uint8)
FACTORS = _rng.normal(size=(COUNT, NUM_ENTITIES, 2))
NAMES = ["x", "visibility"]


def one_hot(labels: np.ndarray, num_entities: int = NUM_ENTITIES) -> np.ndarray:
    """Masks [n, E, H, W, 1] of 0 or 255."""
    return ((labels[:, None] == np.arange(num_entities)[:, None, None]) * np.uint8(255))[..., None]


def write(path: Path, split: str = "train", userblock: int = 0, layout: dict | None = None, **arrays) -> Path:
    with h5py.File(path, "w", userblock_size=userblock) as file:
        group = file.create_group(split)
        for name, array in arrays.items():
            group.create_dataset(name, data=array, **(layout or {}))
    return path


def flip_chunk(path: Path, dataset: str, chunk: int) -> None:
    """Flip every bit in the middle of one stored chunk."""
    with h5py.File(path, "r") as file:
        where = file[dataset].id.get_chunk_info(chunk)
    data = bytearray(path.read_bytes())
    middle = slice(where.byte_offset + where.size // 3, where.byte_offset + 2 * where.size // 3)
    data[middle] = bytes(byte ^ 0xFF for byte in data[middle])
    path.write_bytes(data)


def everything(source: MultiObjectH5) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in source.read(np.arange(len(source))).items()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path) -> Path:
    return write(tmp_path / "pictures.h5", imgs=IMAGES, masks=one_hot(LABELS), factors=FACTORS)


@pytest.mark.parametrize(
    ("dtype", "userblock", "layout", "is_mapped"),
    [
        ("u1", 0, {}, True),
        ("u1", 512, {}, True),
        ("u1", 0, {"chunks": True}, False),
        ("u1", 0, {"chunks": True, "compression": "gzip", "shuffle": True}, False),
        ("u1", 0, {"chunks": True, "compression": "lzf"}, False),
        ("u2", 0, {}, False),
        (">i4", 0, {}, False),
        ("i8", 0, {"chunks": True, "compression": "gzip"}, False),
    ],
)
def test_every_layout_gives_the_same_samples(tmp_path, cache, dtype, userblock, layout, is_mapped):
    arrays = {"imgs": IMAGES.astype(dtype), "masks": one_hot(LABELS).astype(dtype)}
    path = write(tmp_path / "pictures.h5", userblock=userblock, layout=layout, **arrays)
    pictures = MultiObjectH5(path, "train")
    assert len(pictures) == COUNT
    assert pictures.image_size == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(everything(pictures)["image"], IMAGES.transpose(0, 3, 1, 2))
    assert cache.exists() is not is_mapped
    labelled = everything(MultiObjectH5(path, "Train", masks=True))
    np.testing.assert_array_equal(labelled["image"], IMAGES.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(labelled["mask"], LABELS)


@pytest.mark.parametrize("layout", [{}, {"chunks": True, "compression": "gzip"}])
def test_one_channel_becomes_three(tmp_path, layout):
    path = write(tmp_path / "pictures.h5", layout=layout, imgs=IMAGES[..., :1])
    image = MultiObjectH5(path, "train").read(np.arange(COUNT))["image"]
    np.testing.assert_array_equal(image.numpy(), IMAGES[..., [0, 0, 0]].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_uint8_in_channels_last_memory(tmp_path, channels):
    path = write(tmp_path / "pictures.h5", imgs=IMAGES[..., :channels])
    image = MultiObjectH5(path, "train").read(np.arange(5))["image"]
    assert (image.dtype, image.shape) == (torch.uint8, (5, 3, HEIGHT, WIDTH))
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_indices_keep_their_order_and_may_repeat(file):
    source = MultiObjectH5(file, "train", masks=True, factors=True)
    indices = np.array([149, 3, 3, 0, 77, 3])
    batch = source.read(indices)
    np.testing.assert_array_equal(batch["image"].numpy(), IMAGES[indices].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch["mask"].numpy(), LABELS[indices])
    np.testing.assert_array_equal(batch["factors"].numpy(), FACTORS[indices].astype(np.float32))


def test_a_batch_may_be_changed_without_changing_the_data(file):
    source = MultiObjectH5(file, "train", masks=True, factors=True)
    for value in source.read(np.arange(4)).values():
        value.zero_()
    assert (source.read(np.arange(4))["image"].numpy() == IMAGES[:4].transpose(0, 3, 1, 2)).all()
    assert (source.read(np.arange(4))["factors"].numpy() == FACTORS[:4].astype(np.float32)).all()


def test_only_what_is_asked_for_is_read(file):
    assert list(MultiObjectH5(file, "train").read(np.arange(2))) == ["image"]
    assert list(MultiObjectH5(file, "train", masks=True).read(np.arange(2))) == ["image", "mask"]


def test_factor_names(file):
    assert MultiObjectH5(file, "train", factors=True).factor_names == []
    with h5py.File(file, "r+") as opened:
        opened["train/factors"].attrs["names"] = NAMES
    assert MultiObjectH5(file, "train", factors=True).factor_names == NAMES


def test_generated_tetrominoes(tetrominoes):
    path = tetrominoes / "tetrominoes_test.h5"
    batch = everything(MultiObjectH5(path, "test", masks=True, factors=True))
    with h5py.File(path) as opened:
        group = opened["test"]
        np.testing.assert_array_equal(batch["image"], group["imgs"][:].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(batch["mask"], group["masks"][..., 0].argmax(axis=1))
        np.testing.assert_array_equal(batch["factors"], group["factors"][:])
    # Three objects of four blocks of 5x5 pixels.
    assert (np.bincount(batch["mask"].ravel()) == 64 * np.array([925, 100, 100, 100])).all()


@pytest.mark.parametrize(("style", "side"), [("clevr-small", 96), ("clevr-large", 128)])
def test_clevr_styles_cut_and_resize_as_pillow_does(tmp_path, style, side):
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (3, 240, 320, 3), dtype=np.uint8)
    labels = rng.integers(0, 7, (3, 240, 320), dtype=np.uint8)
    # Nothing from outside the box may bleed in.
    pictures[2], pictures[2, 29:221, 64:256] = 255, 7
    path = write(tmp_path / "clevr.h5", imgs=pictures, masks=one_hot(labels, 7))
    source = MultiObjectH5(path, "train", style=style, masks=True)
    assert source.image_size == (side, side)
    batch = everything(source)
    expected = [
        np.asarray(Image.fromarray(picture[29:221, 64:256]).resize((side, side), Image.Resampling.BICUBIC))
        for picture in pictures
    ]
    np.testing.assert_array_equal(batch["image"], np.stack(expected).transpose(0, 3, 1, 2))
    assert (batch["image"][2] == 7).all()
    np.testing.assert_array_equal(batch["mask"], labels[:, 29:221, 64:256])


def test_two_styles_of_one_file_are_cached_apart(clevr6, cache):
    path = clevr6 / "clevr6_with_masks_train.h5"
    sizes = [
        MultiObjectH5(path, "train", style=style).read(np.arange(2))["image"].shape[-1]
        for style in ("clevr-small", "clevr-large", "")
    ]
    assert sizes == [96, 128, 320]
    assert len(list(cache.glob("*.npy"))) == 2


def test_a_missing_file_lists_those_beside_it(file):
    with pytest.raises(DataError, match=r"nowhere\.h5: no such file\. .* holds pictures\.h5\. .*dataset\.data_path"):
        MultiObjectH5(file.with_name("nowhere.h5"), "train")
    with pytest.raises(DataError, match=r"holds no \.h5 file"):
        MultiObjectH5(file.parent / "elsewhere" / "nowhere.h5", "train")


def test_a_missing_group_lists_the_groups(file):
    with pytest.raises(DataError, match=r"pictures\.h5: no group 'test'; the file holds 'train'"):
        MultiObjectH5(file, "test")


@pytest.mark.parametrize("name", ["masks", "factors"])
def test_a_missing_key_lists_the_keys(tmp_path, name):
    path = write(tmp_path / "pictures.h5", imgs=IMAGES)
    with pytest.raises(DataError, match=rf"pictures\.h5: group 'train' has no '{name}', only 'imgs'.*dataset\.{name}"):
        MultiObjectH5(path, "train", **{name: True})


def test_missing_pictures(tmp_path):
    path = write(tmp_path / "pictures.h5", images=IMAGES)
    with pytest.raises(DataError, match="group 'train' has no 'imgs', only 'images'"):
        MultiObjectH5(path, "train")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("imgs", IMAGES[..., 0], r"train/imgs is uint8 \[150, 12, 10\], expected integers \[n, H, W, 3\]"),
        ("imgs", IMAGES.transpose(0, 3, 1, 2), r"train/imgs is uint8 \[150, 3, 12, 10\]"),
        ("imgs", IMAGES / 255, r"train/imgs is float64 \[150, 12, 10, 3\], expected integers"),
        ("imgs", IMAGES[:0], "train/imgs holds 0 samples"),
        ("masks", one_hot(LABELS)[..., 0], r"train/masks is uint8 \[150, 4, 12, 10\], expected .*\[n, E, H, W, 1\]"),
        ("masks", one_hot(LABELS)[:9], "train/masks holds 9 samples, imgs 150"),
        ("factors", FACTORS[:, 0], r"train/factors is float64 \[150, 2\], expected .*\[n, E, F\]"),
        ("factors", FACTORS[:149], "train/factors holds 149 samples, imgs 150"),
    ],
)
def test_wrong_shapes_types_and_lengths(tmp_path, name, array, message):
    arrays = {"imgs": IMAGES, "masks": one_hot(LABELS), "factors": FACTORS, name: array}
    path = write(tmp_path / "pictures.h5", **arrays)
    with pytest.raises(DataError, match=r"pictures\.h5: " + message):
        MultiObjectH5(path, "train", masks=True, factors=True)


def test_integers_beyond_a_byte_are_refused(tmp_path):
    pictures = IMAGES.astype(np.int16)
    pictures[99, 5, 5, 1] = 256
    path = write(tmp_path / "pictures.h5", imgs=pictures)
    with pytest.raises(DataError, match=r"pictures\.h5: train/imgs\[64:128\] is 0 to 256, expected 0 to 255"):
        MultiObjectH5(path, "train").read(np.arange(1))


def test_masks_of_ones_are_refused(tmp_path):
    path = write(tmp_path / "pictures.h5", imgs=IMAGES, masks=one_hot(LABELS) // 255)
    with pytest.raises(DataError, match=r"pictures\.h5: train/masks\[0:64\] hold 0 and 1, expected 0 and 255.* by 255"):
        MultiObjectH5(path, "train", masks=True).read(np.arange(1))


def test_a_wrong_style(file):
    with pytest.raises(ValueError, match="style='clevr-tiny' is not one of '', 'clevr-large', 'clevr-small'"):
        MultiObjectH5(file, "train", style="clevr-tiny")
    with pytest.raises(DataError, match=r"pictures\.h5: style 'clevr-small' cuts 320x240 .* these are 10x12\. Set"):
        MultiObjectH5(file, "train", style="clevr-small")


@pytest.mark.parametrize("layout", [{}, {"chunks": True, "compression": "gzip"}])
def test_a_truncated_file_is_refused_at_once(tmp_path, layout):
    whole = write(tmp_path / "whole.h5", layout=layout, imgs=IMAGES, masks=one_hot(LABELS)).read_bytes()
    path = tmp_path / "pictures.h5"
    for length in [0, 1, 8, 95, 96, 2048, *range(4000, len(whole), len(whole) // 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"pictures\.h5: not a readable \.h5 file .*It is damaged: fetch"):
            MultiObjectH5(path, "train", masks=True)


@pytest.mark.parametrize("name", ["imgs", "masks", "factors"])
def test_a_damaged_chunk_names_file_and_samples(tmp_path, cache, name):
    layout = {"chunks": True, "compression": "gzip"}
    path = write(tmp_path / "pictures.h5", layout=layout, imgs=IMAGES, masks=one_hot(LABELS), factors=FACTORS)
    flip_chunk(path, f"train/{name}", chunk=0)
    source = MultiObjectH5(path, "train", masks=True, factors=True)
    with pytest.raises(DataError, match=rf"pictures\.h5: train/{name}\[0:\d+\] cannot be read .* damaged: fetch"):
        source.read(np.arange(1))
    kept = [entry.name for entry in cache.iterdir() if not entry.name.endswith(".lock")]
    assert not [entry for entry in kept if name in entry or "partial" in entry]


def test_damage_anywhere_in_the_headers_is_a_data_error_or_harmless(tmp_path):
    layout = {"chunks": (50, 12, 10, 3), "compression": "gzip"}
    path = write(tmp_path / "pictures.h5", layout=layout, imgs=IMAGES)
    whole = path.read_bytes()
    messages = []
    for position in range(0, 2400, 13):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            source = MultiObjectH5(path, "train")
            source.read(np.arange(len(source)))
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 30
    assert all(message.startswith(f"{path}: ") for message in messages)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "occupied" / "cache"))
    path = write(tmp_path / "pictures.h5", layout={"chunks": True}, imgs=IMAGES)
    with pytest.raises(DataError, match=r"cannot keep the decoded .*pictures\.h5 .*set OBJECTCENTRIC_CACHE"):
        MultiObjectH5(path, "train").read(np.arange(1))


def test_the_cache_follows_the_file(tmp_path, cache):
    layout = {"chunks": True}
    path = write(tmp_path / "pictures.h5", layout=layout, imgs=IMAGES)
    assert (everything(MultiObjectH5(path, "train"))["image"] == IMAGES.transpose(0, 3, 1, 2)).all()
    decoded = {entry: entry.stat().st_mtime_ns for entry in cache.glob("*.npy")}
    everything(MultiObjectH5(path, "train"))
    assert {entry: entry.stat().st_mtime_ns for entry in cache.glob("*.npy")} == decoded
    before = path.stat()
    write(path, layout=layout, imgs=255 - IMAGES)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert path.stat().st_size == before.st_size
    assert (everything(MultiObjectH5(path, "train"))["image"] == 255 - IMAGES.transpose(0, 3, 1, 2)).all()


def _decode_with_record(path: Path, record: Path, barrier, answers) -> None:
    def decode(start: int, stop: int) -> np.ndarray:
        with record.open("a") as file:
            file.write(f"{os.getpid()} {start}\n")
        return IMAGES[start:stop]

    barrier.wait()
    answers.put((os.getpid(), bool((cached_rows(path, "imgs", IMAGES.shape, decode) == IMAGES).all())))


def test_two_processes_at_once_decode_once(file, cache, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    record = tmp_path / "decoded"
    children = [
        context.Process(target=_decode_with_record, args=(file, record, barrier, answers), daemon=True)
        for _ in range(2)
    ]
    for child in children:
        child.start()
    received = dict(answers.get(timeout=20) for _ in children)
    for child in children:
        child.join(timeout=20)
    assert sorted(received) == sorted(child.pid for child in children)
    assert all(received.values())
    lines = [line.split() for line in record.read_text().splitlines()]
    assert [int(start) for _, start in lines] == [0, 64, 128]
    assert len({process for process, _ in lines}) == 1
    assert len(list(cache.glob("*.npy"))) == 1
    assert not list(cache.glob(".*.partial"))


def test_what_a_killed_decoder_left_is_overwritten(file, cache):
    def die(start: int, stop: int) -> np.ndarray:
        if start:
            os._exit(9)
        return IMAGES[start:stop]

    child = multiprocessing.get_context("fork").Process(
        target=cached_rows, args=(file, "imgs", IMAGES.shape, die), daemon=True
    )
    child.start()
    child.join(timeout=20)
    assert child.exitcode == 9
    assert len(list(cache.glob(".*.partial"))) == 1
    assert not list(cache.glob("*.npy"))
    rows = cached_rows(file, "imgs", IMAGES.shape, lambda start, stop: IMAGES[start:stop])
    np.testing.assert_array_equal(rows, IMAGES)
    assert not list(cache.glob(".*.partial"))


def test_rows_of_another_size_than_promised_are_refused(file, cache):
    with pytest.raises(DataError, match=r"pictures\.h5: .*\[0:64\]"):
        cached_rows(file, "imgs", IMAGES.shape, lambda start, stop: IMAGES[start:stop, ..., :1])
    assert not list(cache.glob("*.npy"))


@pytest.mark.parametrize("layout", [{}, {"chunks": True, "compression": "gzip"}])
@pytest.mark.parametrize("read_before_fork", [False, True])
def test_workers_read_what_the_parent_reads(tmp_path, layout, read_before_fork):
    path = write(tmp_path / "pictures.h5", layout=layout, imgs=IMAGES, masks=one_hot(LABELS), factors=FACTORS)
    source = MultiObjectH5(path, "train", masks=True, factors=True)
    if read_before_fork:
        source.read(np.arange(1))
    loader = TrainingLoader(source, 50, seed=0, device=torch.device("cpu"), num_workers=2)
    batches = loader.batches(0)
    for (_, indices), batch in zip(loader.indices(0), [next(batches) for _ in range(4)]):
        np.testing.assert_array_equal((batch["image"] * 255).byte().numpy(), IMAGES[indices].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(batch["mask"].numpy(), LABELS[indices])
        np.testing.assert_array_equal(batch["factors"].numpy(), FACTORS[indices].astype(np.float32))
    batches.close()
