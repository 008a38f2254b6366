"""MultiShapeNet-Hard as OSRT uses it (Sajjadi et al. 2022): the TFDS folder of Kubric, read without TensorFlow.

`<path>/multi_shapenet_frames/2.8.0/` is a copy of gs://kubric-public/tfds/kubric_frames/multi_shapenet_conditional/
2.8.0: `dataset_info.json` and shards of TFRecords, one `tf.train.Example` per scene with ten posed views as PNG.
"""

import io
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64
from PIL import Image
from torch import Tensor

from core.data.cameras import (
    calibrated_cameras,
    draw_points,
    pixel_rays,
    take_views,
    transform_cameras,
    world_to_camera_by_rays,
)
from core.data.errors import DataError, MissingSplit
from core.data.loader import Batch
from core.data.tfrecord import Feature, parse_example, read_record, record_index

FOLDER = Path("multi_shapenet_frames") / "2.8.0"
SPLITS = {"train": 1_000_000, "val": 10_000, "test": 10_000}
"""Most scenes that are used of each split."""
NUM_VIEWS, NUM_INPUTS = 10, 5
NUM_LABELS = 34
SOURCE = (
    "Copy it again: gsutil -m cp -r gs://kubric-public/tfds/kubric_frames/multi_shapenet_conditional/2.8.0 "
    "<data.path>/multi_shapenet_frames/, or make a synthetic one: python tools/make_data.py msn --root ..."
)


class MSN:
    """One split: of ten views, five drawn ones in random order are given, the other five, ascending, are targets.

    Any scene is read by its number in the order of the shards: where the records lie is found once and kept in the
    cache. Pictures are decoded at every reading (the training set would be 650 GB).

    `read(indices)` gives whole scenes: `images` (n, 10, 3, H, W) uint8, `cameras` (n, 10, 3, 4), `sceneid` (n) and,
    with `masks`, `masks` (n, 10, H, W) uint8 (0 = background). `draw(scene, generator)` makes the sample of one of
    them, to be passed to a loader as `augment`; `core.data.cameras.cast_rays` completes it on the device.

    masks: the data set `osrt` has them, `msn` is the same without.
    num_points: target pixels per sample, drawn without repetition; `full_scale` takes all.
    canonical_view: in the frame of the first input view, `transform` (4, 4) leads there.
    checksums: compare every record with its checksum when it is read.

    Raises DataError.
    """

    render_range = (0.0, 20.0)
    """Nearest and farthest distance from a camera at which a renderer of volumes samples."""
    num_labels = NUM_LABELS

    def __init__(
        self,
        path: str | Path,
        split: str,
        *,
        masks: bool = True,
        num_points: int = 2048,
        full_scale: bool = False,
        max_len: int | None = None,
        canonical_view: bool = False,
        checksums: bool = True,
    ):
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        self.path = Path(path) / FOLDER
        self.split = split
        self.masks = masks
        self.num_points = None if full_scale else num_points
        self.canonical_view = canonical_view
        self.checksums = checksums
        self._shards, expected = find_shards(self.path, split)
        self._index = record_index(self._shards)
        self.shard_lengths: list[int] = np.bincount(self._index[:, 0], minlength=len(self._shards)).tolist()
        for shard, found, promised in zip(self._shards, self.shard_lengths, expected or self.shard_lengths):
            if found != promised:
                raise DataError(
                    f"{shard}: {found} scenes, but dataset_info.json promises {promised}. The copy is incomplete. "
                    f"{SOURCE}"
                )
        if not len(self._index):
            raise MissingSplit(f"{self.path}: the {split} split holds no scene. {SOURCE}")
        self._length = min(len(self._index), SPLITS[split], len(self._index) if max_len is None else max_len)
        self.image_size: tuple[int, int] = tuple(self._read_scene(*self._index[0].tolist())["images"].shape[1:3])
        self.num_targets = (NUM_VIEWS - NUM_INPUTS) * self.image_size[0] * self.image_size[1]

    def __len__(self) -> int:
        return self._length

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Whole scenes of `indices`, in that order."""
        scenes = []
        for shard, offset, length in self._index[indices].tolist():
            scene = self._read_scene(shard, offset, length)
            if (size := tuple(scene["images"].shape[1:3])) != self.image_size:
                raise DataError(
                    f"{self._shards[shard]}: the scene at byte {offset} has pictures of {size[1]}x{size[0]} pixels, "
                    f"expected {self.image_size[1]}x{self.image_size[0]} as in the first one. {SOURCE}"
                )
            scenes.append(scene)
        batch = {key: torch.stack([scene[key] for scene in scenes]) for key in scenes[0]}
        return batch | {"images": batch["images"].permute(0, 1, 4, 2, 3)}

    def draw(self, scene: Batch, generator: np.random.Generator) -> Batch:
        """The sample of one scene, its views and then its target pixels drawn by `generator`."""
        inputs = generator.permutation(NUM_VIEWS)[:NUM_INPUTS].tolist()
        if self.num_points is None:
            return self.sample(scene, inputs)
        return self.sample(scene, inputs, draw_points(generator, self.num_targets, self.num_points))

    def sample(self, scene: Batch, inputs: Sequence[int], points: Tensor | None = None) -> Batch:
        """The sample of one scene with these input views and target pixels (target view, row, column); None: all."""
        chosen = {"sceneid": scene["sceneid"]}
        if self.canonical_view:
            first = scene["cameras"][inputs[0]]
            transform = world_to_camera_by_rays(first[:, 3], pixel_rays(first, *self.image_size))
            scene = scene | {"cameras": transform_cameras(transform, scene["cameras"])}
            chosen["transform"] = transform.float()
        return take_views(scene, inputs, [view for view in range(NUM_VIEWS) if view not in inputs], points) | chosen

    def _read_scene(self, shard: int, offset: int, length: int) -> Batch:
        """One scene, its `images` as (10, H, W, 3)."""
        path = self._shards[shard]
        features = parse_example(read_record(path, offset, length, self.checksums), path, offset)
        example = _Example(features, f"{path}: the scene at byte {offset}")
        intrinsics, to_world = example.cameras()
        pictures = example.pictures("color_image", "RGB")
        scene = {
            "images": torch.from_numpy(pictures),
            "cameras": calibrated_cameras(torch.from_numpy(intrinsics), torch.from_numpy(to_world)),
            "sceneid": torch.tensor(example.number()),
        }
        if self.masks:
            # 1 is the background, and the rare 0 counts as such; whatever is above 34 counts as 34.
            labels = example.pictures("instance_image", "L", pictures.shape[1:3])
            scene["masks"] = torch.from_numpy(labels.clip(1, NUM_LABELS) - 1)
        return scene


def find_shards(folder: Path, split: str) -> tuple[list[Path], list[int] | None]:
    """Files of a split of a TFDS folder, in order, and how many records each should hold (None if nothing says so).

    Their names come from `dataset_info.json`; without it, or if they are called otherwise, from the folder.
    Raises DataError.
    """
    names, lengths = _promised_shards(folder, split)
    missing = [name for name in names if not (folder / name).is_file()]
    if names and len(missing) < len(names):
        if missing:
            raise DataError(
                f"{folder / missing[0]}: no such file ({len(missing)} of {len(names)} shards of the {split} split are "
                f"missing). {SOURCE}"
            )
        return [folder / name for name in names], lengths
    # Beside them may lie what a copy has not finished, or checksums.
    candidates = folder.glob(f"*-{split}.tfrecord-*")
    found = sorted(path for path in candidates if re.fullmatch(r".*-\d+-of-\d+", path.name))
    if not found:
        raise MissingSplit(
            f"{folder}: no shard of the {split} split (*-{split}.tfrecord-*). Set data.path to the folder above "
            f"{FOLDER}. {SOURCE}"
        )
    count = found[0].name.rpartition("-of-")[2]
    if int(count) != len(found):
        raise DataError(f"{found[0]}: one of {count} shards, but there are {len(found)}. {SOURCE}")
    return found, None


def _promised_shards(folder: Path, split: str) -> tuple[list[str], list[int] | None]:
    path = folder / "dataset_info.json"
    if not path.is_file():
        return [], None
    try:
        info = json.loads(path.read_text())
        entry = next((entry for entry in info.get("splits", []) if entry["name"] == split), None)
        if entry is None:
            known = ", ".join(entry["name"] for entry in info.get("splits", []))
            raise MissingSplit(f"{path}: no split {split!r}, only {known or 'nothing'}. {SOURCE}")
        lengths = [int(length) for length in entry["shardLengths"]]
        template = entry.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        words = {"DATASET": info["name"], "SPLIT": split, "FILEFORMAT": info.get("fileFormat", "tfrecord")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected the description of a TFDS data set, found {type(error).__name__} {error}. {SOURCE}"
        ) from error
    for word, value in words.items():
        template = template.replace(f"{{{word}}}", value)
    names = []
    for shard in range(len(lengths)):
        numbers = {"{SHARD_INDEX}": f"{shard:05d}", "{NUM_SHARDS}": f"{len(lengths):05d}"}
        name = template.replace("{SHARD_X_OF_Y}", "{SHARD_INDEX}-of-{NUM_SHARDS}")
        for word, value in numbers.items():
            name = name.replace(word, value)
        names.append(name)
    return names, lengths


def interleaved_order(shard_lengths: Sequence[int], num_open: int = 16, block: int = 16) -> Int64[np.ndarray, "n"]:
    """Numbers of scenes in the order in which the original reads them without shuffling (tf.data's interleave).

    `num_open` shards are open at a time and give `block` scenes in turn; one that is exhausted ends its turn, and the
    next shard has that place from the next round on. Entry n is scene n of the original's render command.
    """
    first = np.concatenate(([0], np.cumsum(shard_lengths)))

    def blocks() -> Iterator[np.ndarray]:
        waiting = deque(np.arange(begin, end) for begin, end in pairwise(first))
        places: list[np.ndarray | None] = [None] * num_open
        while waiting or any(rest is not None for rest in places):
            for place, rest in enumerate(places):
                if rest is None and waiting:
                    rest = waiting.popleft()
                if rest is not None:
                    yield rest[:block]
                    # A shard is found to be exhausted only when a scene is asked for in vain.
                    places[place] = rest[block:] if len(rest) >= block else None

    return np.concatenate([np.empty(0, np.int64), *blocks()])


class _Example:
    """The features of one scene, each checked when it is taken."""

    def __init__(self, features: dict[str, Feature], where: str):
        self.features = features
        self.where = where

    def number(self) -> int:
        name = str(self._bytes("scene_name"), "utf-8", "replace")
        match = re.fullmatch(r"scene_(\d+)", name)
        if not match:
            raise self._error("scene_name", "scene_<number>", repr(name))
        return int(match[1])

    def pictures(self, kind: str, mode: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """[10, H, W, 3] or [10, H, W] uint8, all of one size."""
        found = []
        for view in range(NUM_VIEWS):
            key = f"cameras/camera_{view}/{kind}"
            try:
                with Image.open(io.BytesIO(self._bytes(key))) as picture:
                    if picture.mode != mode:
                        raise self._error(key, f"a picture of mode {mode}", picture.mode)
                    found.append(np.asarray(picture))
            except (OSError, SyntaxError, ValueError) as error:
                raise self._error(key, "a PNG", str(error)) from error
            size = size or found[0].shape[:2]
            if found[-1].shape[:2] != size:
                raise self._error(
                    key, f"{size[1]}x{size[0]} pixels as elsewhere in the scene", "{}x{}".format(*picture.size)
                )
        return np.stack(found)

    def cameras(self) -> tuple[Float64[np.ndarray, "V 3 3"], Float64[np.ndarray, "V 3 4"]]:
        """Intrinsic matrices, and camera to world: world = R_pose frame + t_pose, camera = R frame + t."""
        intrinsics, rotations, offsets = [], [], []
        for view in range(NUM_VIEWS):
            camera = f"cameras/camera_{view}/intrinsics"
            kind = bytes(self._bytes(f"{camera}/type"))
            if kind != b"PERSPECTIVE":
                raise self._error(f"{camera}/type", "PERSPECTIVE", repr(kind))
            for key, size in ((f"{camera}/distortion/radial", 3), (f"{camera}/distortion/tangential", 2)):
                if np.abs(distortion := self._floats(key, size)).max() > 1e-6:
                    raise self._error(key, "no distortion", str(distortion.tolist()))
            intrinsics.append(self._floats(f"{camera}/K", 9).reshape(3, 3))
            rotations.append(self._floats(f"cameras/camera_{view}/extrinsics/R", 9).reshape(3, 3))
            offsets.append(self._floats(f"cameras/camera_{view}/extrinsics/t", 3))
        pose = self._floats("pose/R", 9).reshape(3, 3)
        to_frame = np.stack(rotations).transpose(0, 2, 1)
        positions = -to_frame @ np.stack(offsets)[..., None]
        to_world = np.concatenate((pose @ to_frame, pose @ positions + self._floats("pose/t", 3)[:, None]), axis=-1)
        return np.stack(intrinsics), to_world

    def _floats(self, key: str, size: int) -> Float64[np.ndarray, "{size}"]:
        value = self._value(key)
        if not isinstance(value, np.ndarray) or value.dtype != np.float32 or len(value) != size:
            raise self._error(key, f"{size} floats", _what(value))
        return value.astype(np.float64)

    def _bytes(self, key: str) -> memoryview:
        value = self._value(key)
        if isinstance(value, np.ndarray) or len(value) != 1:
            raise self._error(key, "one string of bytes", _what(value))
        return value[0]

    def _value(self, key: str) -> Feature:
        if key not in self.features:
            raise self._error(key, "such a feature", f"only {', '.join(sorted(self.features)[:5]) or 'nothing'}, ...")
        return self.features[key]

    def _error(self, key: str, expected: str, found: str) -> DataError:
        return DataError(f"{self.where}: {key}: expected {expected}, found {found}. {SOURCE}")


def _what(value: Feature) -> str:
    return f"{len(value)} {value.dtype if isinstance(value, np.ndarray) else 'strings of bytes'}"
