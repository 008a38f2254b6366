"""The reader of MSN-hard on a small TFDS folder in the published layout."""

import io
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.cameras import cast_rays, look_at_axes, pixel_rays, project
from core.data.errors import DataError
from core.data.loader import Batch, TrainingLoader
from core.data.msn import FOLDER, MSN, find_shards, interleaved_order
from core.data.tfrecord import Feature, encode_example, write_records

HEIGHT, WIDTH, NUM_VIEWS = 6, 8, 10
SHARD_LENGTHS = {"train": [3, 1, 2], "val": [2]}
NAME = "kubric_frames"
_rng = np.random.default_rng(0)
PICTURES = _rng.integers(0, 256, (8, NUM_VIEWS, HEIGHT, WIDTH, 3), dtype=np.uint8)
IDS = _rng.integers(0, 40, (8, NUM_VIEWS, HEIGHT, WIDTH), dtype=np.uint8)
POSITIONS = _rng.normal(size=(8, NUM_VIEWS, 3)) * 4
INTRINSICS = np.array([[9.0, 0, WIDTH / 2], [0, 9, HEIGHT / 2], [0, 0, 1]])
POSE = (np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([0.5, -1.0, 2.0]))
"""Frame to world: a quarter turn about z, and an offset."""


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def floats(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32).ravel()


def features_of(scene: int) -> dict[str, Feature]:
    features: dict[str, Feature] = {
        "scene_name": [f"scene_{100 + scene}".encode()],
        "frame_name": [b"frame"],
        "pose/R": floats(POSE[0]),
        "pose/t": floats(POSE[1]),
    }
    for view in range(NUM_VIEWS):
        position = torch.from_numpy(POSITIONS[scene, view])
        # camera = R frame + t, where frame = pose^-1 world
        from_world = look_at_axes(position, torch.zeros(3)).numpy()
        camera = f"cameras/camera_{view}"
        features |= {
            f"{camera}/color_image": [png(PICTURES[scene, view])],
            f"{camera}/instance_image": [png(IDS[scene, view])],
            f"{camera}/category_image": [png(IDS[scene, view])],
            f"{camera}/depth_image": [b"not read"],
            f"{camera}/intrinsics/K": floats(INTRINSICS),
            f"{camera}/intrinsics/image_width": np.array([WIDTH]),
            f"{camera}/intrinsics/image_height": np.array([HEIGHT]),
            f"{camera}/intrinsics/type": [b"PERSPECTIVE"],
            f"{camera}/intrinsics/distortion/radial": floats(np.zeros(3)),
            f"{camera}/intrinsics/distortion/tangential": floats(np.zeros(2)),
            f"{camera}/extrinsics/R": floats(from_world @ POSE[0]),
            f"{camera}/extrinsics/t": floats(from_world @ (POSE[1] - POSITIONS[scene, view])),
        }
    return features


def shard(folder: Path, split: str, number: int) -> Path:
    return folder / f"{NAME}-{split}.tfrecord-{number:05d}-of-{len(SHARD_LENGTHS[split]):05d}"


def write_info(folder: Path, **changes) -> None:
    splits = [
        {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": split,
            "numBytes": "1",
            "shardLengths": [str(length) for length in lengths],
        }
        for split, lengths in SHARD_LENGTHS.items()
    ]
    info = {"name": NAME, "version": "2.8.0", "fileFormat": "tfrecord", "splits": splits} | changes
    (folder / "dataset_info.json").write_text(json.dumps(info))


def write_shard(folder: Path, number: int, *scenes: dict[str, Feature]) -> None:
    write_records(shard(folder, "train", number), [encode_example(scene) for scene in scenes])


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("msn")
    folder = root / FOLDER
    folder.mkdir(parents=True)
    write_info(folder)
    (folder / "features.json").write_text("{}")
    scene = 0
    for split, lengths in SHARD_LENGTHS.items():
        for number, length in enumerate(lengths):
            write_records(shard(folder, split, number), [encode_example(features_of(scene + i)) for i in range(length)])
            scene += length
    return root


@pytest.fixture
def root(tmp_path, pristine) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "osrt"))


@pytest.fixture
def folder(root) -> Path:
    return root / FOLDER


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def scene_of(source: MSN, index: int) -> Batch:
    return {key: value[0] for key, value in source.read(np.array([index])).items()}


def test_any_scene_is_read_by_its_number(root):
    source = MSN(root, "train")
    assert (len(source), source.image_size, source.shard_lengths) == (6, (HEIGHT, WIDTH), [3, 1, 2])
    indices = np.array([5, 0, 3, 3])
    scenes = source.read(indices)
    np.testing.assert_array_equal(scenes["images"].permute(0, 1, 3, 4, 2), PICTURES[indices])
    assert scenes["sceneid"].tolist() == [105, 100, 103, 103]
    assert MSN(root, "val").read(np.arange(2))["sceneid"].tolist() == [106, 107]


def test_labels_begin_with_the_background(root):
    masks = scene_of(MSN(root, "train"), 2)["masks"].numpy()
    assert masks.dtype == np.uint8
    ids = IDS[2].astype(int)
    assert ids.min() == 0
    assert ids.max() > 34
    np.testing.assert_array_equal(masks, np.clip(ids, 1, 34) - 1)


def test_cameras_follow_pose_extrinsics_and_intrinsics(root):
    cameras = scene_of(MSN(root, "train"), 1)["cameras"]
    torch.testing.assert_close(cameras[..., 3], torch.from_numpy(POSITIONS[1]), rtol=0, atol=1e-5)
    for camera in cameras:  # all of them look at the origin
        seen = project(camera, torch.zeros(3))
        assert seen[:2].tolist() == pytest.approx([WIDTH / 2, HEIGHT / 2], abs=1e-5)
        assert seen[2] == pytest.approx(float(camera[:, 3].norm()), abs=1e-5)
    above = project(cameras[0], torch.tensor([0, 0, 0.1]))
    assert above[1] < HEIGHT / 2


def test_sample_of_given_views(root):
    source = MSN(root, "train")
    scene = scene_of(source, 4)
    inputs, targets = [7, 0, 9, 3, 2], [1, 4, 5, 6, 8]
    sample = cast_rays(source.sample(scene, inputs))
    assert sample["sceneid"] == 104
    assert torch.equal(sample["input_images"], scene["images"][inputs].float() / 255)
    assert torch.equal(sample["input_masks"], scene["masks"][inputs])
    rays = pixel_rays(scene["cameras"], HEIGHT, WIDTH)
    assert torch.equal(sample["input_rays"], rays[inputs])
    pixels = torch.from_numpy(PICTURES[4][targets].reshape(-1, 3))
    assert torch.equal(sample["target_pixels"], pixels.float() / 255)
    torch.testing.assert_close(sample["target_rays"], rays[targets].reshape(-1, 3), rtol=0, atol=1e-7)


def test_the_generator_draws_views_and_then_points(root):
    source = MSN(root, "train", num_points=11)
    scene = scene_of(source, 4)
    seen = set()
    for seed in range(30):
        sample = source.draw(scene, np.random.default_rng(seed))
        again = source.draw(scene, np.random.default_rng(seed))
        assert all(torch.equal(again[key], value) for key, value in sample.items())
        inputs = [
            next(view for view in range(NUM_VIEWS) if torch.equal(picture, scene["images"][view]))
            for picture in sample["input_images"]
        ]
        targets = [view for view in range(NUM_VIEWS) if view not in inputs]
        assert len(targets) == 5
        assert torch.equal(sample["target_cameras"], scene["cameras"][targets])
        view, row, column = sample["target_points"].long().unbind(-1)
        expected = torch.from_numpy(PICTURES[4])[torch.tensor(targets)[view], row, column]
        assert torch.equal(sample["target_pixels"], expected)
        assert len(view) == 11
        seen.add(tuple(inputs))
    assert len(seen) == 30
    assert any(list(inputs) != sorted(inputs) for inputs in seen)
    assert len(MSN(root, "train", full_scale=True).draw(scene, np.random.default_rng(0))["target_pixels"]) == 240


def test_without_masks(root):
    source = MSN(root, "train", masks=False)
    assert set(scene_of(source, 0)) == {"images", "cameras", "sceneid"}
    drawn = cast_rays(source.draw(scene_of(source, 0), np.random.default_rng(0)))
    assert not [key for key in drawn if "mask" in key]


def test_canonical_view(root):
    source = MSN(root, "train", canonical_view=True)
    sample = cast_rays(source.sample(scene_of(source, 0), [4, 1, 2, 3, 0]))
    torch.testing.assert_close(sample["input_camera_pos"][0], torch.zeros(3), rtol=0, atol=1e-6)
    forward = torch.nn.functional.normalize(sample["input_rays"][0].mean(dim=(0, 1)), dim=0)
    torch.testing.assert_close(forward, torch.tensor([0.0, 0, 1]), rtol=0, atol=1e-6)
    world = cast_rays(MSN(root, "train").sample(scene_of(source, 0), [4, 1, 2, 3, 0]))
    moved = world["input_camera_pos"] @ sample["transform"][:3, :3].T + sample["transform"][:3, 3]
    torch.testing.assert_close(sample["input_camera_pos"], moved, rtol=0, atol=1e-5)


def loaded(source: MSN, steps: int = 5, **settings) -> list[Batch]:
    loader = TrainingLoader(source, seed=3, device=torch.device("cpu"), augment=source.draw, **settings)
    batches = loader.batches(0)
    return [next(batches) for _ in range(steps)]


def test_samples_do_not_depend_on_workers_or_processes(root):
    source = MSN(root, "train", num_points=10)
    alone = loaded(source, batch_size=4)
    workers = loaded(source, batch_size=4, num_workers=2)
    halves = [loaded(source, batch_size=2, num_processes=2, process_index=index) for index in range(2)]
    for step, batch in enumerate(alone):
        for key, value in batch.items():
            assert torch.equal(workers[step][key], value)
            assert torch.equal(torch.cat([half[step][key] for half in halves]), value)
    order = [number for batch in alone for number in batch["sceneid"].tolist()]
    assert order[:6] != sorted(order[:6])
    assert set(order) == set(range(100, 106))


def test_max_len(root):
    assert len(MSN(root, "train", max_len=4)) == 4
    assert len(MSN(root, "train", max_len=400)) == 6


def test_the_index_is_made_once(root, cache):
    MSN(root, "train")
    (index,) = cache.glob("*.npy")
    stamp = index.stat().st_mtime_ns
    assert MSN(root, "train", masks=False).read(np.array([5]))["sceneid"] == 105
    assert index.stat().st_mtime_ns == stamp


def reference_order(shards: list[list[int]], num_open: int, block: int) -> list[int]:
    """The documented behaviour of tf.data's interleave, scene by scene."""
    waiting, read = [iter(numbers) for numbers in shards], []
    places = [None] * num_open
    while waiting or any(places):
        for i in range(num_open):
            if places[i] is None and waiting:
                places[i] = waiting.pop(0)
            for _ in range(block if places[i] else 0):
                number = next(places[i], None)
                if number is None:
                    places[i] = None
                    break
                read.append(number)
    return read


def test_order_of_the_documentation_of_interleave():
    """`Dataset.range(1, 6).interleave(lambda x: from_tensors(x).repeat(6), cycle_length=2, block_length=4)`."""
    shards = np.repeat(np.arange(1, 6), 6)
    order = interleaved_order([6] * 5, num_open=2, block=4)
    expected = "1111 2222 11 22 3333 4444 33 44 5555 55".replace(" ", "")
    assert "".join(map(str, shards[order])) == expected


@pytest.mark.parametrize("lengths", [[3, 1, 2], [40, 5, 16, 0, 33, 1], [32], [], [7] * 45, list(range(60)), [977] * 40])
@pytest.mark.parametrize(("num_open", "block"), [(16, 16), (1, 4), (3, 2)])
def test_interleaved_order(lengths, num_open, block):
    order = interleaved_order(lengths, num_open, block)
    starts = np.cumsum([0, *lengths])
    shards = [list(range(start, end)) for start, end in pairwise(starts)]
    assert order.tolist() == reference_order(shards, num_open, block)
    assert sorted(order.tolist()) == list(range(sum(lengths)))


def test_shards_are_found_without_a_description(root, folder):
    (folder / "dataset_info.json").unlink()
    assert MSN(root, "train").shard_lengths == [3, 1, 2]
    for ending in ("_.gstmp", ".crc"):  # what copying leaves beside them
        first = shard(folder, "train", 0)
        first.with_name(first.name + ending).write_bytes(b"part")
    assert MSN(root, "train").shard_lengths == [3, 1, 2]
    shard(folder, "train", 1).unlink()
    with pytest.raises(DataError, match=r"tfrecord-00000-of-00003: one of 00003 shards, but there are 2\. Copy it"):
        MSN(root, "train")


def test_shards_of_another_name(root, folder):
    write_info(folder, name="multi_shapenet")
    assert [path.name for path in find_shards(folder, "val")[0]] == [shard(folder, "val", 0).name]
    assert MSN(root, "train").shard_lengths == [3, 1, 2]


def test_a_template_of_the_file_names(tmp_path):
    template = "{SPLIT}/{DATASET}.{FILEFORMAT}.{SHARD_INDEX}.{NUM_SHARDS}"
    split = {"name": "train", "shardLengths": ["1", "1"], "filepathTemplate": template}
    write_info(tmp_path, splits=[split])
    (tmp_path / "train").mkdir()
    names = [f"train/{NAME}.tfrecord.{i:05d}.00002" for i in range(2)]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert find_shards(tmp_path, "train") == ([tmp_path / name for name in names], [1, 1])


def expect(message: str, root: Path, **options) -> None:
    with pytest.raises(DataError, match=message):
        MSN(root, "train", **options).read(np.arange(6))


def test_missing_files(root, folder):
    shard(folder, "train", 1).unlink()
    expect(
        r"train\.tfrecord-00001-of-00003: no such file \(1 of 3 shards of the train split are missing\)\. Copy", root
    )
    shutil.rmtree(folder)
    expect(r"2\.8\.0: no shard of the train split .* Set data\.path to the folder above multi_shapenet_frames", root)


def test_unknown_splits(root):
    with pytest.raises(ValueError, match="split 'training' is not one of train, val, test"):
        MSN(root, "training")
    with pytest.raises(DataError, match=r"dataset_info\.json: no split 'test', only train, val\. Copy"):
        MSN(root, "test")


@pytest.mark.parametrize("text", ["", "[]", "{}{", '{"splits": [{"name": "train"}]}', '{"splits": 3}'])
def test_a_damaged_description(root, folder, text):
    (folder / "dataset_info.json").write_text(text)
    expect(r"dataset_info\.json: expected the description of a TFDS data set, found \w+ .*Copy", root)


def test_a_shard_with_too_few_scenes(root, folder):
    write_shard(folder, 0, features_of(0))
    expect(r"00000-of-00003: 1 scenes, but dataset_info\.json promises 3\. The copy is incomplete\. Copy", root)


def test_an_empty_split(root, folder):
    write_info(folder, splits=[{"name": "train", "shardLengths": ["0"]}])
    (folder / f"{NAME}-train.tfrecord-00000-of-00001").write_bytes(b"")
    expect("the train split holds no scene", root)


def test_a_truncated_shard(root, folder):
    os.truncate(shard(folder, "train", 2), 3000)
    expect(r"00002-of-00003: truncated: the record at byte \d+ ends at byte \d+, the file at byte 3000", root)


def test_a_damaged_record(root, folder):
    path = shard(folder, "train", 2)
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)
    expect(r"00002-of-00003: damaged: the record of \d+ bytes at byte 12 has the checksum", root)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scene_name", [b"scene"], r"expected scene_<number>, found 'scene'"),
        ("scene_name", None, "expected such a feature, found only cameras/camera_0/category_image"),
        ("cameras/camera_3/intrinsics/type", [b"FISHEYE"], "expected PERSPECTIVE, found b'FISHEYE'"),
        (
            "cameras/camera_3/intrinsics/distortion/radial",
            floats([0, 0.1, 0]),
            r"expected no distortion, found \[0\.0, ",
        ),
        ("cameras/camera_3/intrinsics/K", floats(np.ones(8)), "expected 9 floats, found 8 float32"),
        ("cameras/camera_3/extrinsics/R", np.ones(9, np.int64), "expected 9 floats, found 9 int64"),
        ("cameras/camera_3/color_image", [], "expected one string of bytes, found 0 strings of bytes"),
        ("cameras/camera_3/color_image", [b"no picture"], "expected a PNG, found cannot identify image file"),
        ("cameras/camera_3/color_image", [png(IDS[0, 0])], "expected a picture of mode RGB, found L"),
        ("cameras/camera_3/color_image", [png(PICTURES[0, 0, :5])], "expected 8x6 pixels .*, found 8x5"),
        ("cameras/camera_0/instance_image", [png(IDS[0, 0, :5])], "expected 8x6 pixels .*, found 8x5"),
    ],
)
def test_scenes_that_do_not_fit(root, folder, key, value, message):
    features = features_of(3) | {key: value}
    if value is None:
        del features[key]
    write_shard(folder, 1, features)
    expect(rf"00001-of-00003: the scene at byte 12: {key}: {message}.*Copy", root)


def test_a_scene_of_another_size(root, folder):
    features = features_of(3)
    for view in range(NUM_VIEWS):
        features[f"cameras/camera_{view}/color_image"] = [png(PICTURES[0, view, :5])]
        features[f"cameras/camera_{view}/instance_image"] = [png(IDS[0, view, :5])]
    write_shard(folder, 1, features)
    expect(r"the scene at byte 12 has pictures of 8x5 pixels, expected 8x6 as in the first one\. Copy", root)
