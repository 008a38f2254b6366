"""Data strings of the benchmark, from their words to batches, on small files in the true formats."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from core.data.errors import DataError
from core.data.loader import BatchSource, TrainingLoader
from core.data.spec import DataSpec
from core.data.spec.recolour import colour_table

HEIGHT, WIDTH = 15, 24
_rng = np.random.default_rng(0)
PICTURES = _rng.integers(0, 256, (20, HEIGHT, WIDTH, 3), dtype=np.uint8)
LABELS = _rng.integers(0, 4, (20, HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_clevr(root: Path, count: int = 20) -> Path:
    folder = root / "clevr_with_masks"
    (folder / "0").mkdir(parents=True)
    for number in range(count):
        masks = (LABELS[number] == np.arange(11)[:, None, None]) * np.uint8(255)
        visibility = np.arange(11) <= 3 + number % 5
        np.savez(
            folder / f"0/{number}.npz",
            image=PICTURES[number],
            mask=masks[..., None],
            visibility=visibility.astype("f4"),
        )
    (folder / "dataset.json").write_text(json.dumps({"count": count}))
    return root


def write_clevrtex(root: Path, variant: str, count: int, flip: bool = False) -> Path:
    folder = root / f"clevrtex_{variant}"
    folder.mkdir(parents=True)
    for number in range(count):
        stem = folder / f"CLEVRTEX_{variant}_{number:06d}"
        picture = PICTURES[number][::-1] if flip else PICTURES[number]
        Image.fromarray(picture).save(stem.with_suffix(".png"))
        Image.fromarray(LABELS[number]).save(f"{stem}_flat.png")
    return root


def write_h5(path: Path, group: str, rows: slice) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[f"{group}/imgs"] = PICTURES[rows]
        masks = (LABELS[rows][:, None] == np.arange(4)[:, None, None]) * np.uint8(255)
        file[f"{group}/masks"] = masks[..., None]


def everything(source: BatchSource) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in source.read(np.arange(len(source))).items()}


def test_words_may_stand_in_any_order_and_case():
    spec = DataSpec.parse("clevr-crop-(64,96)-rbg-rso-max6-flip")
    for text in ("clevr-MAX6-c- (64, 96) -RNG_BG-flip-rngsob", "clevr_with_masks--flip-rbg-cc-rbg-(64,96)-max6-rso-"):
        assert DataSpec.parse(text) == spec
    assert str(spec) == "clecflips-rbg-rso-m6"
    assert spec.shape == (3, 64, 96)
    assert spec.sets == (("clevr", None),)
    assert DataSpec.parse("concat(clevr, clevrtex:pbg)-medium").sets == (("clevr", None), ("clevrtex", "pbg"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clvr-crop", "no data set 'clvr'; did you mean 'clevr'?"),
        ("clevrtex:grasbg-crop", "no variant 'grasbg' of clevrtex; did you mean 'grassbg'?"),
        ("clevrtex-crop", "clevrtex needs a variant, one of clevrtex:full, clevrtex:pbg"),
        ("clevr:full", "clevr has no variants, found 'full'"),
        ("clevr-corp", "no flag 'corp'; did you mean 'crop'?. Others are max<N> and (height,width)"),
        ("clevr-meduim", "no flag 'meduim'; did you mean 'medium'?"),
        ("clevr-[128,128]", "no flag '[128,128]'"),
        ("clevr-(0,128)", "no flag '(0,128)'"),
        ("clevr-max0-bbg", "no flag 'max0'"),
        ("clevr-tiny-small", "'small' contradicts an earlier flag"),
        ("clevr-bbg-rbg", "'rbg' contradicts an earlier flag"),
        ("clevr-rso-rdo", "'rdo' contradicts an earlier flag"),
        ("clevr-max3", "max needs bbg or rbg"),
        ("clevr-max3-rso", "max needs bbg or rbg"),
        ("mnist-bbg", "mnist has no masks, so that it can be neither recoloured nor cut into objects"),
        ("concat()", "no data set ''"),
        ("", "no data set ''"),
    ],
)
def test_what_cannot_be_meant_is_said(text, said):
    with pytest.raises(ValueError, match="--data") as error:
        DataSpec.parse(text)
    assert str(error.value).startswith(f"--data {text!r}: {said}")


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("clevr6", (3, 240, 320)),
        ("clevr6-crop", (3, 192, 192)),
        ("clevrtex:outd-crop", (3, 192, 192)),
        ("tetrominoes", (3, 35, 35)),
        ("movi:e-crop", (3, 128, 128)),
        ("concat(clevr,clevrtex:full)-crop", (3, 192, 192)),
    ],
)
def test_shapes_of_published_pictures(text, shape):
    assert DataSpec.parse(text).shape == shape


@pytest.mark.parametrize("text", ["pascal", "pascal-crop", "clevr-obj", "concat(clevr,tetrominoes)"])
def test_pictures_of_several_sizes_have_no_shape(text):
    with pytest.raises(ValueError, match=r"pictures differ in size\. Add a size such as -\(128,128\)"):
        _ = DataSpec.parse(text).shape


def test_clevr_is_cropped_flipped_and_merged(tmp_path):
    source = DataSpec.parse("clevr-crop-flip-bbg-max2").open("train", write_clevr(tmp_path))
    batch = everything(source)
    box = (slice(6, 20), slice(1, 13), slice(6, 18))
    np.testing.assert_array_equal(batch["image"], PICTURES[box][:, :, ::-1].transpose(0, 3, 1, 2))
    labels = LABELS[box][:, :, ::-1]
    np.testing.assert_array_equal(batch["mask"], np.where(labels > 2, 0, labels))
    original = DataSpec.parse("clevr-crop-flip").open("train", tmp_path, as_original=True)
    np.testing.assert_array_equal(everything(original)["image"], PICTURES[box][:, ::-1].transpose(0, 3, 1, 2))


def test_clevr6(tmp_path):
    source = DataSpec.parse("clevr6-crop").open("train", write_clevr(tmp_path), masks=True)
    rows = [number for number in range(6, 20) if 3 + number % 5 <= 6]
    np.testing.assert_array_equal(everything(source)["mask"], LABELS[rows, 1:13, 6:18])
    assert (tmp_path / "clevr6_train_index.json").exists()
    original = DataSpec.parse("clevr6-crop").open("train", tmp_path, as_original=True)
    assert original.image_size == (15, 15)


def test_clevrtex_without_masks_needs_none(tmp_path):
    root = write_clevrtex(tmp_path, "full", 20)
    for path in (root / "clevrtex_full").glob("*_flat.png"):
        path.unlink()
    assert list(everything(DataSpec.parse("clevrtex:full-crop-(8,8)").open("train", root))) == ["image"]
    with pytest.raises(DataError, match=r"_flat\.png: no such file \(16 of 16 label maps"):
        DataSpec.parse("clevrtex:full-crop-(8,8)-bbg").open("train", root)


@pytest.mark.parametrize("flags", ["rbg", "rso", "rdo", "rbg-rdo", "bbg-rdo"])
def test_colours_are_those_of_the_sample_in_every_batch(tmp_path, flags):
    spec = DataSpec.parse(f"clevrtex:outd-{flags}")
    source = spec.open("train", write_clevrtex(tmp_path, "outd", 12))
    batch = source.read(np.array([7, 2]))
    number = {"rbg": 1, "rso": 1, "rdo": 20, "rbg-rdo": 21, "bbg-rdo": 20}[flags]
    expected = colour_table(12, number)[[7, 2], :, :3]
    assert batch["colours"].shape == (2, number, 3, 1, 1)
    np.testing.assert_array_equal(batch["colours"].numpy(), expected)
    np.testing.assert_array_equal(colour_table(500, number)[:12], colour_table(12, number))
    painted = spec.recolour(batch | {"image": batch["image"].float() / 255})
    assert "colours" not in painted
    first = "rbg" in flags
    for image, label, picture, colours in zip(painted["image"], LABELS[[7, 2]], PICTURES[[7, 2]], expected[..., 0, 0]):
        for row, column in np.ndindex(HEIGHT, WIDTH):
            wanted, entity = picture[row, column] / 255, label[row, column]
            if entity == 0 and "bg" in flags:
                wanted = colours[0] if "rbg" in flags else np.zeros(3)
            elif entity and "rso" in flags:
                wanted = colours[0]
            elif entity and "rdo" in flags:
                wanted = colours[first + entity - 1]
            np.testing.assert_allclose(image[:, row, column], wanted, rtol=1e-6)


def test_a_batch_without_colour_flags_is_left_alone(tmp_path):
    spec = DataSpec.parse("clevrtex:outd-(8,8)")
    batch = spec.open("val", write_clevrtex(tmp_path, "outd", 3)).read(np.arange(3))
    assert spec.recolour(batch) is batch


def test_sets_are_concatenated(tmp_path):
    write_clevrtex(tmp_path, "full", 10)
    write_clevrtex(tmp_path, "outd", 5, flip=True)
    write_clevr(tmp_path)
    source = DataSpec.parse("concat(clevrtex:full,clevrtex:outd,clevr)").open("train", tmp_path, masks=True)
    assert len(source) == 8 + 5 + 14
    batch = source.read(np.array([12, 0, 13, 26, 7, 8]))
    expected = [PICTURES[4][::-1], PICTURES[2], PICTURES[6], PICTURES[19], PICTURES[9], PICTURES[0][::-1]]
    np.testing.assert_array_equal(batch["image"].numpy(), np.stack(expected).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch["mask"].numpy(), LABELS[[4, 2, 6, 19, 9, 0]])
    for index in (27, -1):
        with pytest.raises(IndexError):
            source.read(np.array([index]))
    write_h5(tmp_path / "tetrominoes.h5", "train", slice(0, 20))
    with h5py.File(tmp_path / "tetrominoes.h5", "r+") as file:
        file["train"].move("imgs", "whole")
        file["train/imgs"] = PICTURES[:, 1:]
    with pytest.raises(ValueError, match=r"needs pictures of one size, found .*_full 15x24, .*h5 14x24\. Add a size"):
        DataSpec.parse("concat(clevrtex:full,tetrominoes)").open("train", tmp_path)


@pytest.mark.parametrize("text", ["tetrominoes", "multi_dsprites:binarized", "multi_dsprites", "objects_room:train"])
@pytest.mark.parametrize("beside", [True, False])
def test_h5_sets_are_split_and_sized_by_their_samples(tmp_path, text, beside):
    name = {"multi_dsprites:binarized": "multi_dsprites_binarized", "objects_room:train": "objects_room"}.get(
        text, text
    )
    name = "multi_dsprites_colored_on_grayscale" if name == "multi_dsprites" else name
    folder = tmp_path if beside else tmp_path / text.partition(":")[0]
    write_h5(folder / f"{name}.h5", "train", slice(0, 17))
    write_h5(folder / f"{name}_test.h5", "test", slice(17, 20))
    spec = DataSpec.parse(text)
    for split, rows in {"train": range(15), "val": range(15, 17), "test": range(17, 20)}.items():
        source = spec.open(split, tmp_path, masks=True)
        assert (len(source), source.image_size) == (len(rows), (HEIGHT, WIDTH))
        batch = everything(source)
        np.testing.assert_array_equal(batch["image"], PICTURES[rows].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(batch["mask"], LABELS[rows])
    assert list(spec.open("val", tmp_path).read(np.array([0]))) == ["image"]
    framed = replace(spec, crop=True, flip=True, background="black", max_objects=1).open("val", tmp_path)
    assert framed.image_size == (15, 15)
    batch = everything(framed)
    np.testing.assert_array_equal(batch["image"], PICTURES[15:17, :, 4:19][:, :, ::-1].transpose(0, 3, 1, 2))
    labels = LABELS[15:17, :, 4:19][:, :, ::-1]
    np.testing.assert_array_equal(batch["mask"], np.where(labels > 1, 0, labels))


def test_generated_tetrominoes_are_found(tetrominoes):
    assert DataSpec.parse("tetrominoes").open("test", tetrominoes, masks=True).image_size == (35, 35)
    assert len(DataSpec.parse("tetrominoes-(64,64)").open("train", tetrominoes)) == 230


def test_frames_of_videos_are_pictures(tmp_path):
    folder = tmp_path / "MOVi-Tex" / "train" / "0"
    folder.mkdir(parents=True)
    for number in range(24):
        grey = np.full((64, 64), 10 * number, np.uint8)
        Image.fromarray(np.dstack([grey] * 3)).save(folder / f"{number:08d}_image.png")
        for index, rows in enumerate((slice(0, 16), slice(16, 48))):
            mask = np.zeros_like(grey)
            mask[rows] = 255
            Image.fromarray(mask).save(folder / f"{number:08d}_mask_{index:02d}.png")
    source = DataSpec.parse("movi:tex-(64,64)-flip").open("train", tmp_path, masks=True)
    assert len(source) == 24
    batch = source.read(np.array([20, 3]))
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["image"][:, 0, 0, 0].tolist() == [200, 30]
    assert batch["mask"][0, :, 0].tolist() == [1] * 16 + [2] * 32 + [0] * 16


def test_every_view_of_a_scene_is_a_picture(tmp_path):
    folder = tmp_path / "clevr3d"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    np.savez(folder / "metadata.npz", shape=np.ones((10, 3)), camera_pos=_rng.normal(size=(10, 3, 3)))
    (folder / "dataset.json").write_text(json.dumps({"count": 10}))
    for scene, view in np.ndindex(10, 3):
        Image.fromarray(np.full((6, 8, 3), 10 * scene + view, np.uint8)).save(folder / f"images/img_{scene}_{view}.png")
        Image.fromarray(np.full((6, 8), scene, np.uint8)).save(folder / f"masks/masks_{scene}_{view}.png")
    spec = DataSpec.parse("clevr3d")
    assert [len(spec.open(split, tmp_path)) for split in ("train", "val", "test")] == [24, 3, 3]
    batch = spec.open("train", tmp_path, masks=True).read(np.array([3, 8 + 3, 16 + 5]))
    assert batch["image"][:, 0, 0, 0].tolist() == [30, 31, 52]
    assert batch["mask"][:, 0, 0].tolist() == [3, 3, 5]
    assert list(spec.open("train", tmp_path).read(np.array([0]))) == ["image"]


def test_pascal(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("ImageSets/Segmentation", "JPEGImages", "SegmentationObject"):
        (folder / name).mkdir(parents=True)
    (folder / "ImageSets/Segmentation/train.txt").write_text("2007_a\n2007_b\n")
    for number, name in enumerate(("2007_a", "2007_b")):
        picture = np.full((30 + 10 * number, 50, 3), 40 * (number + 1), np.uint8)
        Image.fromarray(picture).save(folder / f"JPEGImages/{name}.jpg", quality=100)
        labels = np.zeros(picture.shape[:2], np.uint8)
        labels[:10], labels[10:20], labels[-5:] = 1, 255, 3
        image = Image.fromarray(labels)
        image.putpalette([value for entry in range(256) for value in (entry, 255 - entry, 7)])
        image.save(folder / f"SegmentationObject/{name}.png")
    spec = DataSpec.parse("pascal-(30,50)")
    batch = everything(spec.open("train", tmp_path, masks=True))
    assert batch["image"].shape == (2, 3, 30, 50)
    assert [round(float(image.mean())) for image in batch["image"]] == [40, 80]
    assert batch["mask"][0, :, 0].tolist() == [1] * 10 + [0] * 15 + [3] * 5
    with pytest.raises(DataError, match=r"2007_b\.jpg: becomes 40 x 50 x 3, expected 30 x 50 x 3 .* Give a size"):
        everything(DataSpec.parse("pascal").open("train", tmp_path))
    with pytest.raises(ValueError, match="Pascal VOC split 'test' is not one of train, val"):
        spec.open("test", tmp_path)
    with pytest.raises(DataError, match=r"val\.txt: cannot be read .*VOCtrainval_11-May-2012\.tar"):
        spec.open("val", tmp_path)
    (folder / "JPEGImages/2007_b.jpg").unlink()
    with pytest.raises(DataError, match=r"2007_b\.jpg: no such file"):
        everything(spec.open("train", tmp_path))


def as_objects(arrays: np.ndarray) -> np.ndarray:
    objects = np.empty(len(arrays), object)
    objects[:] = list(arrays)
    return objects


@pytest.mark.parametrize("convert", [as_objects, lambda arrays: arrays, lambda arrays: as_objects(arrays / 255)])
def test_multi_mnist(tmp_path, convert):
    pictures = np.zeros((10_003, 50, 50), np.uint8)
    pictures[:, 3, 4] = np.arange(len(pictures)) % 251
    labels = np.empty(len(pictures), object)
    np.savez(tmp_path / "multi_mnist.npz", imgs=convert(pictures), labels=labels)
    spec = DataSpec.parse("mnist")
    assert spec.shape == (3, 50, 50)
    for split, start, count in (("test", 0, 5000), ("val", 5000, 5000), ("train", 10_000, 3)):
        source = spec.open(split, tmp_path)
        assert len(source) == count
        image = source.read(np.array([0, 2]))["image"]
        assert image.shape == (2, 3, 50, 50)
        assert image[:, :, 3, 4].tolist() == [[start % 251] * 3, [(start + 2) % 251] * 3]
        assert int(image.sum()) == int(image[:, :, 3, 4].sum())
    assert DataSpec.parse("mnist-(64,64)").open("train", tmp_path).read(np.array([1]))["image"].shape == (1, 3, 64, 64)
    assert not spec.has_masks
    with pytest.raises(ValueError, match="has no masks, so that it can be trained on and not be scored"):
        spec.open("train", tmp_path, masks=True)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("touched"),)


def test_multi_mnist_runs_nothing_that_a_file_asks_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.empty(10_001, object)
    objects[0] = Evil()
    with (tmp_path / "multi_mnist.npz").open("wb") as file:
        np.savez(file, imgs=objects)
    with pytest.raises(DataError, match=r"multi_mnist\.npz: imgs: not a readable pickle .*getattr|pathlib"):
        DataSpec.parse("mnist").open("train", tmp_path).read(np.array([0]))
    assert not Path("touched").exists()
    (tmp_path / "multi_mnist.npz").write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match=r"multi_mnist\.npz: imgs cannot be read .*np\.savez"):
        DataSpec.parse("mnist").open("train", tmp_path)


def test_the_folders_of_the_original_and_of_the_readme_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = DataSpec.parse("clevrtex:full-crop-(8,8)")
    said = (
        r"no data set clevrtex:full: looked for ool_data/clevrtex_full, data/clevrtex_full from .*\. The published set "
        r"comes from https://www\.robots\.ox\.ac\.uk/~vgg/data/clevrtex/.*`python tools/make_data\.py clevrtex --root"
    )
    with pytest.raises(DataError, match=said):
        spec.open("train")
    write_clevrtex(tmp_path / "data", "full", 10)
    assert len(spec.open("train")) == 8
    write_clevrtex(tmp_path / "ool_data", "full", 20)
    assert len(spec.open("train")) == 16
    assert len(spec.open("train", "data/clevrtex_full")) == 8
    with pytest.raises(DataError, match=r"looked for .*data/tetrominoes/tetrominoes\.h5.*make_data\.py tet"):
        DataSpec.parse("tetrominoes").open("train")
    with pytest.raises(ValueError, match="split 'training' is not one of train, val, test"):
        spec.open("training")


def test_a_training_run_reads_every_kind(tmp_path):
    write_clevr(tmp_path)
    write_clevrtex(tmp_path, "full", 10)
    spec = DataSpec.parse("concat(clevr,clevrtex:full)-crop-(8,8)-rbg")
    for resident in (False, True):
        loader = TrainingLoader(spec.open("train", tmp_path), 4, seed=1, device=torch.device("cpu"), resident=resident)
        batch = spec.recolour(next(loader.batches(0)))
        assert batch["image"].shape == (4, 3, 8, 8)
        grounds = [image[:, mask == 0] for image, mask in zip(batch["image"], batch["mask"])]
        assert all(torch.equal(ground, ground[:, :1].expand_as(ground)) for ground in grounds)
