"""Crowded scenes from ten places, in the record files of MultiShapeNet-hard (Sajjadi et al. 2022).

Bodies of many shapes and procedural materials stand in for ShapeNet's; layout, cameras and files are the published
set's: one shard of `tf.train.Example` records per file, and a `dataset_info.json` that lists them.
"""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from core.data.msn import FOLDER
from core.data.tfrecord import encode_example, framed
from core.synth import clevr, textures
from core.synth.encoded import png
from core.synth.h5_writer import sample_rng
from core.synth.render import Rendering, render
from core.synth.scene import Camera, Light, Scene, SceneObject, rotation_about_z
from core.synth.scene_writer import Files, Options
from core.synth.shapes import SHAPES, resting_height
from core.synth.videos import split_of

NAME = "multi_shapenet_frames"
NUM_VIEWS = 10
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
REACH = 4.0
MOST_TRIES = 2000


def make_shard(
    index: int, *, seed: int, width: int, height: int, samples: int, fewest: int, most: int, per_shard: int
) -> Files:
    """Shard `index` with `per_shard` scenes."""
    split, number = split_of(index, ("train", "val", "test"))
    records = [
        framed(_record(scene, seed, width, height, samples, fewest, most))
        for scene in range(index * per_shard, (index + 1) * per_shard)
    ]
    return {str(FOLDER / f"{NAME}-{split}.tfrecord-{number:05d}"): b"".join(records)}


def _record(number: int, seed: int, width: int, height: int, samples: int, fewest: int, most: int) -> bytes:
    rng = sample_rng(seed, "msn", number)
    scene = Scene(draw_crowd(rng, fewest, most), Camera((1.0, 0.0, 0.0)), draw_lamps(rng))
    ground = textures.material(str(rng.choice(textures.MATERIALS)), 24.0)
    scene = replace(scene, ground=replace(ground, metallic=0.0, roughness=0.85))
    name = f"scene_{number}".encode()
    features: dict[str, list[bytes] | np.ndarray] = {
        "scene_name": [name],
        "frame_name": [name],
        "pose/R": np.eye(3, dtype=np.float32).ravel(),
        "pose/t": np.zeros(3, np.float32),
    }
    for view in range(NUM_VIEWS):
        camera = _draw_camera(rng, width, height)
        drawn = render(replace(scene, camera=camera), samples, seed=int(rng.integers(2**31)))
        features |= {f"cameras/camera_{view}/{key}": value for key, value in _camera(camera, drawn).items()}
    return encode_example(features)


def draw_crowd(rng: np.random.Generator, fewest: int, most: int) -> tuple[SceneObject, ...]:
    """Bodies that stand apart on the ground; as many of those that were drawn as find a place."""
    objects: list[SceneObject] = []
    count = int(rng.integers(fewest, most + 1))
    for _ in range(MOST_TRIES):
        if len(objects) == count:
            break
        shape, size = str(rng.choice(SHAPES)), float(rng.uniform(0.3, 0.75))
        x, y = map(float, rng.uniform(-REACH, REACH, 2))
        if any(np.hypot(x - other.position[0], y - other.position[1]) < size + other.size for other in objects):
            continue
        stretch = tuple(map(float, rng.uniform(0.6, 1.0, 3)))
        surface = textures.material(str(rng.choice(textures.MATERIALS)), 2.0)
        turned = rotation_about_z(float(rng.uniform(0, 2 * np.pi)))
        objects.append(
            SceneObject(shape, size, (x, y, size * stretch[2] * resting_height(shape)), turned, surface, stretch)
        )
    return tuple(objects)


def draw_lamps(rng: np.random.Generator) -> tuple[Light, ...]:
    """Those of CLEVR, all above the cameras."""
    return tuple(replace(light, position=(*light.position[:2], 11.0)) for light in clevr.draw_lights(rng))


def _draw_camera(rng: np.random.Generator, width: int, height: int) -> Camera:
    angle, up, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.8), rng.uniform(8, 11)
    flat = np.sqrt(1 - up**2)
    place = radius * np.array([flat * np.cos(angle), flat * np.sin(angle), up])
    target = rng.uniform((-0.5, -0.5, 0.0), (0.5, 0.5, 1.0))
    return Camera(tuple(map(float, place)), tuple(map(float, target)), width=width, height=height)


def _camera(camera: Camera, drawn: Rendering) -> dict[str, list[bytes] | np.ndarray]:
    focal = max(camera.width, camera.height) / 2 / np.tan(np.radians(camera.fov) / 2)
    intrinsics = [[focal, 0, camera.width / 2], [0, focal, camera.height / 2], [0, 0, 1]]
    rotation = camera.axes()
    depth = np.where(np.isfinite(drawn.depth), drawn.depth, 0).astype("<f4")
    return {
        "color_image": [png(drawn.image)],
        "instance_image": [png(drawn.index + np.uint8(1))],  # 1 is the background
        "category_image": [png(np.zeros_like(drawn.index))],
        "depth_image": [_four_bytes(depth)],
        "intrinsics/K": np.array(intrinsics, np.float32).ravel(),
        "intrinsics/image_width": np.array([camera.width], np.int64),
        "intrinsics/image_height": np.array([camera.height], np.int64),
        "intrinsics/type": [b"PERSPECTIVE"],
        "intrinsics/distortion/radial": np.zeros(3, np.float32),
        "intrinsics/distortion/tangential": np.zeros(2, np.float32),
        "extrinsics/R": rotation.astype(np.float32).ravel(),
        "extrinsics/t": (-rotation @ camera.position).astype(np.float32),
    }


def _four_bytes(depth: np.ndarray) -> bytes:
    """A PNG whose four channels are the bytes of each float32."""
    buffer = io.BytesIO()
    Image.fromarray(depth.view(np.uint8).reshape(*depth.shape, 4), "RGBA").save(buffer, format="PNG")
    return buffer.getvalue()


def description(root: Path, num_shards: int, options: Options) -> Files:
    """dataset_info.json: the shards of every split, and how many records each holds."""
    lengths: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    sizes = dict.fromkeys(lengths, 0)
    for shard in range(num_shards):
        split, number = split_of(shard, ("train", "val", "test"))
        lengths[split].append(str(options["per_shard"]))
        sizes[split] += (root / FOLDER / f"{NAME}-{split}.tfrecord-{number:05d}").stat().st_size
    splits = [
        {"name": split, "shardLengths": found, "numBytes": str(sizes[split]), "filepathTemplate": TEMPLATE}
        for split, found in lengths.items()
    ]
    info = {"name": NAME, "version": "2.8.0", "fileFormat": "tfrecord", "splits": splits}
    return {str(FOLDER / "dataset_info.json"): json.dumps(info, indent=2).encode()}
