"""The ClevrTex reader on a small tree in the published layout."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.clevrtex import PUBLISHED, ClevrTex
from core.data.errors import DataError
from core.data.framing import Framing

COUNT, WIDTH, HEIGHT, SIDE = 20, 24, 15, 8
SMALL = replace(PUBLISHED, size=(SIDE, SIDE))
# The central square of 0.8 * 15 pixels.
LEFT, TOP, RIGHT, BOTTOM = 6, 1, 18, 13
_rng = np.random.default_rng(0)
PICTURES = _rng.integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
LABELS = _rng.integers(0, 11, (COUNT, HEIGHT, WIDTH), dtype=np.uint8)
THING = {"material": "stone", "shape": "cube", "size": "small", "rotation": 1.5, "color": "red", "pixel_coords": [1, 2]}


def name_of(number: int, variant: str = "full", what: str = "") -> str:
    return f"CLEVRTEX_{variant}_{number:06d}{what}.png"


def write(root: Path, variant: str = "full", count: int = COUNT) -> Path:
    """`root` with `count` pictures of a variant, four to a folder."""
    for number in range(count):
        folder = root / f"clevrtex_{variant}" / str(number // 4)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURES[number % COUNT]).save(folder / name_of(number, variant))
        Image.fromarray(LABELS[number % COUNT]).save(folder / name_of(number, variant, "_flat"))
        scene = {"ground_material": f"ground {number}", "objects": [THING], "image_index": number}
        (folder / f"CLEVRTEX_{variant}_{number:06d}.json").write_text(json.dumps(scene))
    return root


def everything(source: ClevrTex) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in source.read(np.arange(len(source))).items()}


def resized(pixels: np.ndarray, how: Image.Resampling) -> np.ndarray:
    cut = Image.fromarray(pixels[TOP:BOTTOM, LEFT:RIGHT])
    return np.asarray(cut.resize((SIDE, SIDE), how))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path) -> Path:
    return write(tmp_path / "data")


@pytest.mark.parametrize(("split", "numbers"), [("test", range(2)), ("val", range(2, 4)), ("train", range(4, 20))])
def test_splits_are_cut_and_resized(root, split, numbers):
    source = ClevrTex(root, "full", split, SMALL, masks=True)
    assert (len(source), source.image_size) == (len(numbers), (SIDE, SIDE))
    batch = everything(source)
    expected = np.stack([resized(PICTURES[number], Image.Resampling.BILINEAR) for number in numbers])
    np.testing.assert_array_equal(batch["image"], expected.transpose(0, 3, 1, 2))
    expected = np.stack([resized(LABELS[number], Image.Resampling.NEAREST) for number in numbers])
    np.testing.assert_array_equal(batch["mask"], expected)


def test_labels_are_picked_not_mixed(root):
    mask = everything(ClevrTex(root, "full", "train", SMALL, masks=True))["mask"]
    assert mask.dtype == np.uint8
    for picked, labels in zip(mask, LABELS[4:]):
        assert set(picked.ravel()) <= set(labels[TOP:BOTTOM, LEFT:RIGHT].ravel())


def test_pictures_are_128_pixels_wide_in_channels_last_memory(root):
    image = ClevrTex(root, "full", "test").read(np.array([0]))["image"]
    assert (image.dtype, image.shape) == (torch.uint8, (1, 3, 128, 128))
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_order_is_kept_and_only_what_is_asked_for_is_read(root):
    source = ClevrTex(root, "full", "train", SMALL)
    batch = source.read(np.array([5, 0, 5]))
    assert list(batch) == ["image"]
    np.testing.assert_array_equal(batch["image"].numpy(), everything(source)["image"][[5, 0, 5]])


def test_flags_of_framing_are_heeded(root):
    framing = Framing(flip="columns", size=(5, 9), max_objects=3, antialias=True)
    batch = everything(ClevrTex(root, "full", "train", framing, masks=True))
    image, mask = (
        np.stack([np.asarray(Image.fromarray(pixels[:, ::-1]).resize((9, 5), how)) for pixels in arrays[4:]])
        for arrays, how in ((PICTURES, Image.Resampling.BILINEAR), (LABELS, Image.Resampling.NEAREST))
    )
    np.testing.assert_array_equal(batch["image"], image.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch["mask"], np.where(mask > 3, 0, mask))
    whole = everything(ClevrTex(root, "full", "train", Framing(), masks=True))
    np.testing.assert_array_equal(whole["image"], PICTURES[4:].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(whole["mask"], LABELS[4:])


def test_the_first_object_is_cut_out(root):
    folder = root / "clevrtex_full" / "0"
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[3:9, 5:17], labels[4, 6], labels[10:, 20:] = 2, 7, 5
    Image.fromarray(labels).save(folder / name_of(0, what="_flat"))
    framing = Framing(only_object=True, size=(6, 12), antialias=True)
    batch = everything(ClevrTex(root, "full", "test", framing, masks=True))
    np.testing.assert_array_equal(batch["image"][0].transpose(1, 2, 0), PICTURES[0][3:9, 5:17])
    assert batch["mask"][0].sum() == 6 * 12 - 1
    assert batch["mask"][0][1, 1] == 0
    labels[3:9, 5:17], labels[2:8, 3:15] = 0, 2
    Image.fromarray(labels).save(folder / name_of(0, what="_flat"))
    again = everything(ClevrTex(root, "full", "test", framing))
    np.testing.assert_array_equal(again["image"][0].transpose(1, 2, 0), PICTURES[0][2:8, 3:15])
    Image.fromarray(np.zeros_like(labels)).save(folder / name_of(0, what="_flat"))
    empty = everything(ClevrTex(root, "full", "test", framing, masks=True))
    expected = Image.fromarray(PICTURES[0]).resize((12, 6), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(empty["image"][0].transpose(1, 2, 0), np.asarray(expected))
    assert not empty["mask"][0].any()
    with pytest.raises(ValueError, match="objects cut out of their pictures differ in size: give a size"):
        Framing(only_object=True)


def test_pictures_of_two_sizes_need_one_to_be_resized_to(root):
    Image.fromarray(PICTURES[1][:, 1:]).save(root / "clevrtex_full" / "0" / name_of(1))
    with pytest.raises(DataError, match=r"000001\.png: becomes 15 x 23 x 3, expected 15 x 24 x 3 .* Give a size"):
        everything(ClevrTex(root, "full", "test", Framing()))
    assert everything(ClevrTex(root, "full", "test", SMALL))["image"].shape == (2, 3, SIDE, SIDE)


def test_negative_indices_count_from_the_end_of_the_split(root):
    source = ClevrTex(root, "full", "val", Framing())
    np.testing.assert_array_equal(source.read(np.array([-1, -2]))["image"][:, 0], PICTURES[[3, 2], :, :, 0])
    for index in (2, -3):
        with pytest.raises(IndexError):
            source.read(np.array([index]))


@pytest.mark.parametrize(("variant", "left_out"), [("camo", {"color", "pixel_coords"}), ("vbg", {"pixel_coords"})])
def test_metadata_is_reduced_to_what_the_benchmark_compares(tmp_path, variant, left_out):
    source = ClevrTex(write(tmp_path / "data", variant, 10), variant, "train")
    thing = {key: value for key, value in THING.items() if key not in left_out}
    assert source.metadata(2) == {"ground_material": "ground 4", "objects": [thing]}
    assert source.metadata(-1)["ground_material"] == "ground 9"


def test_damaged_and_missing_metadata_are_named_when_asked_for(root):
    folder = root / "clevrtex_full" / "0"
    (folder / "CLEVRTEX_full_000000.json").unlink()
    (folder / "CLEVRTEX_full_000001.json").write_text('{"objects": []}')
    source = ClevrTex(root, "full", "test", SMALL, masks=True)
    assert len(everything(source)["mask"]) == 2
    with pytest.raises(DataError, match=r"000000\.json: .*No such file.*vgg/data/clevrtex/.*make_data\.py clevrtex "):
        source.metadata(0)
    with pytest.raises(DataError, match=r"000001\.json: .*ground_material.*make_data\.py clevrtex --root"):
        source.metadata(1)


def test_the_tree_is_walked_once_for_all_splits_and_again_when_it_changes(tmp_path):
    root = write(tmp_path / "data", "outd", 10)
    first, second = ClevrTex(root, "outd", "train"), ClevrTex(root, "outd", "val")
    assert all(one is other for one, other in zip(first.sources, second.sources))
    write(root, "outd", 12)
    third = ClevrTex(root, "outd", "val")
    assert len(third) == 12
    assert third.sources[:10] == first.sources
    assert third.sources[0] is not first.sources[0]


def test_whole_variants_are_not_split(tmp_path):
    root = write(tmp_path / "data", "outd", 7)
    write(root, "test", 3)
    for variant, count in (("outd", 7), ("test", 3)):
        assert [len(ClevrTex(root, variant, split, SMALL)) for split in ("train", "val", "test")] == [count] * 3


def test_the_path_may_be_the_folder_of_the_variant(root):
    inside = ClevrTex(root / "clevrtex_full", "full", "val", SMALL)
    np.testing.assert_array_equal(
        everything(inside)["image"], everything(ClevrTex(root, "full", "val", SMALL))["image"]
    )


def test_variants_lie_side_by_side(root):
    write(root, "camo", 10)
    assert len(ClevrTex(root, "full", "test", SMALL)) == 2
    assert len(ClevrTex(root, "camo", "test", SMALL)) == 1


def test_palette_and_alpha_are_read_as_colours_and_labels(root):
    folder = root / "clevrtex_full" / "0"
    Image.fromarray(np.dstack((PICTURES[0], np.full((HEIGHT, WIDTH), 9, np.uint8)))).save(folder / name_of(0))
    palette = Image.fromarray(LABELS[0])
    palette.putpalette([value for entry in range(256) for value in (entry, 255 - entry, 7)])
    palette.save(folder / name_of(0, what="_flat"))
    assert Image.open(folder / name_of(0, what="_flat")).mode == "P"
    batch = everything(ClevrTex(root, "full", "test", SMALL, masks=True))
    np.testing.assert_array_equal(batch["image"][0].transpose(1, 2, 0), resized(PICTURES[0], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(batch["mask"][0], resized(LABELS[0], Image.Resampling.NEAREST))


def test_a_gap_in_the_numbering(root):
    (root / "clevrtex_full" / "1" / name_of(7)).unlink()
    (root / "clevrtex_full" / "2" / name_of(9)).unlink()
    message = r"clevrtex_full: picture 7 is missing \(2 in all of 20\)\. The download is incomplete: unpack it again\."
    with pytest.raises(DataError, match=message):
        ClevrTex(root, "full", "train")


def test_a_picture_that_is_there_twice(root):
    (root / "clevrtex_full" / "copy").mkdir()
    Image.fromarray(PICTURES[3]).save(root / "clevrtex_full" / "copy" / name_of(3))
    with pytest.raises(DataError, match=r"CLEVRTEX_full_000003\.png: picture 3 is there twice, also as .*Remove one"):
        ClevrTex(root, "full", "train")


def test_a_missing_folder(root):
    message = (
        r"clevrtex_vbg: no CLEVRTEX_vbg_NNNNNN\.png below it\. Give the folder that holds clevrtex_vbg/\. The "
        r"published set comes from https://www\.robots\.ox\.ac\.uk/~vgg/data/clevrtex/; one like it is made by "
        r"`python tools/make_data\.py clevrtex_vbg --root"
    )
    with pytest.raises(DataError, match=message):
        ClevrTex(root, "vbg", "train")


def test_unknown_variants_and_splits(root):
    with pytest.raises(ValueError, match="variant 'ful' is not one of full, pbg, vbg, grassbg, camo, outd, test"):
        ClevrTex(root, "ful", "train")
    with pytest.raises(ValueError, match="split 'training' is not one of test, val, train"):
        ClevrTex(root, "full", "training")


def test_a_missing_label_map(root):
    (root / "clevrtex_full" / "0" / name_of(1, what="_flat")).unlink()
    assert len(ClevrTex(root, "full", "test", SMALL)) == 2
    with pytest.raises(DataError, match=r"full_000001_flat\.png: no such file \(1 of 2 label maps .*published"):
        ClevrTex(root, "full", "test", SMALL, masks=True)


def test_a_label_map_with_colours(root):
    Image.fromarray(PICTURES[1]).save(root / "clevrtex_full" / "0" / name_of(1, what="_flat"))
    source = ClevrTex(root, "full", "test", SMALL, masks=True)
    with pytest.raises(DataError, match=r"CLEVRTEX_full_000001_flat\.png: .*RGB"):
        source.read(np.array([0]))


def test_a_damaged_png_is_named(root, cache):
    path = root / "clevrtex_full" / "0" / name_of(1)
    whole = path.read_bytes()
    # The last 12 bytes say that the file ends here, and nothing else.
    for position in range(0, len(whole) - 12, 5):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with pytest.raises(DataError, match=r"CLEVRTEX_full_000001\.png: cannot be read as a picture .*published"):
            ClevrTex(root, "full", "test", SMALL).read(np.array([0]))
    for length in range(0, len(whole) - 12, 31):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"CLEVRTEX_full_000001\.png: cannot be read as a picture .*published"):
            ClevrTex(root, "full", "test", SMALL).read(np.array([0]))
    assert not list(cache.glob("*.npy"))
    path.write_bytes(whole)
    assert len(ClevrTex(root, "full", "test", SMALL).read(np.arange(2))["image"]) == 2


def test_the_cache_follows_the_pictures(root):
    before = everything(ClevrTex(root, "full", "test", SMALL))["image"]
    path = root / "clevrtex_full" / "0" / name_of(1)
    folder = path.parent.parent
    stamp = folder.stat()
    Image.fromarray(255 - PICTURES[1]).save(path)
    # Replacing a picture further down leaves no trace in the folder at the top.
    os.utime(folder, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = everything(ClevrTex(root, "full", "test", SMALL))["image"]
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1].transpose(1, 2, 0), resized(255 - PICTURES[1], Image.Resampling.BILINEAR))
