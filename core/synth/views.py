"""Scenes from several places, in the layout of ObSuRF's sets (Stelzner et al. 2021): clevr3d and obsurf_msn."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.synth import clevr, textures
from core.synth.encoded import png
from core.synth.h5_writer import sample_rng
from core.synth.render import index_of, render
from core.synth.scene import Camera, Scene, SceneObject, rotation_about_z
from core.synth.scene_writer import Files, Options
from core.synth.shapes import SHAPES, resting_height

NUM_VIEWS = 3
RADIUS = float(np.linalg.norm(clevr.CAMERA))
FEWEST_PIXELS = 60  # of an object in any of the views, at 320x240


def make_views(
    index: int, *, kind: str, seed: int, width: int, height: int, samples: int, fewest: int, most: int, zoom: float
) -> Files:
    """Pictures and masks of one scene from three places around it, and its description."""
    rng = sample_rng(seed, kind, index)
    scene, shapes, cameras = draw_views(rng, kind, width, height, fewest, most, zoom)
    files: Files = {}
    for view, camera in enumerate(cameras):
        drawn = render(replace(scene, camera=camera), samples, seed=int(rng.integers(2**31)))
        files[f"images/img_{index}_{view}.png"] = png(drawn.image)
        files[f"masks/masks_{index}_{view}.png"] = png(drawn.index)
    description = {
        "shape": shapes,
        "camera_pos": [camera.position for camera in cameras],
        "positions": [thing.position for thing in scene.objects],
    }
    return files | {f"scenes/{index:06d}.json": json.dumps(description).encode()}


def draw_views(
    rng: np.random.Generator, kind: str, width: int, height: int, fewest: int, most: int, zoom: float = 1.0
) -> tuple[Scene, list[int], list[Camera]]:
    """A scene, the numbers of its shapes (from 1), and cameras around it that look at the origin.

    The files do not hold the field of view, so that `zoom` brings the cameras nearer.
    """
    enough = FEWEST_PIXELS * width * height / (320 * 240)
    while True:
        if kind == "clevr3d":
            things = clevr.draw_things(rng, fewest, most)
            objects = tuple(thing.place() for thing in things)
            shapes = [clevr.SHAPES.index(thing.shape) + 1 for thing in things]
        else:
            objects, shapes = draw_mixed(rng, fewest, most)
        turn = rng.uniform(0, 2 * np.pi)
        cameras = [_camera(turn + 2 * np.pi * view / NUM_VIEWS, width, height, zoom) for view in range(NUM_VIEWS)]
        lamps = tuple(replace(light, position=(*light.position[:2], 9.0)) for light in clevr.draw_lights(rng))
        scene = Scene(objects, cameras[0], lamps, clevr.GROUND)
        seen = np.zeros(len(objects) + 1)
        for camera in cameras:
            seen = np.maximum(seen, np.bincount(index_of(replace(scene, camera=camera)).ravel(), minlength=len(seen)))
        if seen[1:].min() >= enough:
            return scene, shapes, cameras


def _camera(angle: float, width: int, height: int, zoom: float) -> Camera:
    up = clevr.CAMERA[2] / RADIUS
    flat = np.sqrt(1 - up**2)
    place = RADIUS / zoom * np.array([flat * np.cos(angle), flat * np.sin(angle), up])
    return Camera(tuple(map(float, place)), width=width, height=height)


def draw_mixed(
    rng: np.random.Generator,
    fewest: int,
    most: int,
    sizes: tuple[float, float] = (0.8, 1.3),
    reach: float = 2.6,
) -> tuple[tuple[SceneObject, ...], list[int]]:
    """Stretched bodies of many shapes and materials, as a stand-in for ShapeNet's, and the numbers of their shapes."""
    objects: list[SceneObject] = []
    shapes: list[int] = []
    count = int(rng.integers(fewest, most + 1))
    while len(objects) < count:
        number = int(rng.integers(len(SHAPES)))
        size, (x, y) = float(rng.uniform(*sizes)), map(float, rng.uniform(-reach, reach, 2))
        if any(np.hypot(x - other.position[0], y - other.position[1]) < size + other.size for other in objects):
            continue
        stretch = tuple(map(float, rng.uniform(0.55, 1.0, 3)))
        place = (x, y, size * stretch[2] * resting_height(SHAPES[number]))
        surface = replace(textures.material(str(rng.choice(textures.MATERIALS)), 2.0), metallic=0.0)
        turned = rotation_about_z(float(rng.uniform(0, 2 * np.pi)))
        objects.append(SceneObject(SHAPES[number], size, place, turned, surface, stretch))
        shapes.append(number + 1)
    return tuple(objects), shapes


def metadata(root: Path, count: int, options: Options) -> Files:
    """metadata.npz: shapes (0 for none) and camera positions of all scenes."""
    shape, camera_pos = np.zeros((count, int(options["most"])), np.int64), np.zeros((count, NUM_VIEWS, 3))
    for scene in range(count):
        described = json.loads((root / f"scenes/{scene:06d}.json").read_text())
        shape[scene, : len(described["shape"])] = described["shape"]
        camera_pos[scene] = described["camera_pos"]
    buffer = io.BytesIO()
    np.savez(buffer, shape=shape, camera_pos=camera_pos)
    return {"metadata.npz": buffer.getvalue()}
