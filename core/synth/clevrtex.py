"""ClevrTex-like stills (Karazija et al. 2021): textured objects of four shapes on a textured, uneven ground.

Materials are procedural (`core.synth.textures`), none is the published set's; counts, camera and variants are.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from core.synth import clevr, textures
from core.synth.encoded import png
from core.synth.h5_writer import sample_rng
from core.synth.render import Rendering, index_of, render
from core.synth.scene import Material, Scene, SceneObject, rotation_about_z
from core.synth.scene_writer import Files
from core.synth.shapes import resting_height

SHAPES = ("cube", "sphere", "cylinder", "torus")
UNSEEN_SHAPES = ("cone", "pillow", "star", "barrel")
SIZES = {"small": 0.4, "medium": 0.6, "large": 0.85}
FEWEST, MOST = 3, 10
PER_FOLDER = 1000
GRASS = Material((0.1, 0.22, 0.04), roughness=0.95, name="grass")
GROUND_SIZE = 40.0
GROUND_REPEATS = 24.0


@dataclass(frozen=True)
class Variant:
    """What a variant of the benchmark changes of `full`: plain or alike objects, another ground, unseen materials."""

    plain_objects: bool = False
    ground: str = "textured"
    """or `plain`, `grass`, `camouflage`: the one material that all objects have, too"""
    unseen: bool = False


VARIANTS = {
    "full": Variant(),
    "pbg": Variant(ground="plain"),
    "vbg": Variant(plain_objects=True),
    "grassbg": Variant(ground="grass"),
    "camo": Variant(ground="camouflage"),
    "outd": Variant(unseen=True),
    "test": Variant(),
}


def draw_scene(rng: np.random.Generator, variant: Variant, width: int, height: int) -> tuple[Scene, dict[str, Any]]:
    """A scene of which every object shows enough pixels, and its description as the JSON files hold it."""
    enough = clevr.FEWEST_PIXELS * width * height / (320 * 240)
    while True:
        names = textures.UNSEEN_MATERIALS if variant.unseen else textures.MATERIALS
        ground_name = str(rng.choice(names))
        things = _draw_things(rng, variant, names, ground_name)
        ground, relief = _ground(rng, variant, ground_name)
        objects = tuple(thing for thing, _ in things)
        camera = clevr.draw_camera(rng, width, height)
        scene = Scene(objects, camera, clevr.draw_lights(rng), ground, relief, ground_size=GROUND_SIZE)
        pixels = np.bincount(index_of(scene).ravel(), minlength=len(objects) + 1)[1:]
        if pixels.min() >= enough:
            seen = camera.project(np.array([thing.position for thing in objects]))
            described = [
                {**words, "3d_coords": list(thing.position), "pixel_coords": list(map(float, place))}
                for (thing, words), place in zip(things, seen)
            ]
            return scene, {"ground_material": ground.name, "objects": described}


def _draw_things(
    rng: np.random.Generator, variant: Variant, names: tuple[str, ...], ground_name: str
) -> list[tuple[SceneObject, dict[str, Any]]]:
    """Objects that keep their distance, with their properties by name."""
    while True:
        things: list[tuple[SceneObject, dict[str, Any]]] = []
        count = int(rng.integers(FEWEST, MOST + 1))
        for _ in range(clevr.MOST_TRIES * count):
            shape = str(rng.choice(UNSEEN_SHAPES if variant.unseen else SHAPES))
            size_name = str(rng.choice(list(SIZES)))
            x, y = map(float, rng.uniform(-clevr.REACH, clevr.REACH, 2))
            size = SIZES[size_name] / (2**0.5 if shape == "cube" else 1)
            near = (np.hypot(x - other.position[0], y - other.position[1]) < size + other.size for other, _ in things)
            if any(near):
                continue
            rotation = float(rng.uniform(0, 2 * np.pi))
            surface, words = _material(rng, variant, names, ground_name)
            place = (x, y, size * resting_height(shape))
            thing = SceneObject(shape, size, place, rotation_about_z(rotation), surface)
            things.append((thing, {"shape": shape, "size": size_name, "rotation": rotation, **words}))
            if len(things) == count:
                return things


def _material(
    rng: np.random.Generator, variant: Variant, names: tuple[str, ...], ground_name: str
) -> tuple[Material, dict[str, Any]]:
    if variant.plain_objects:
        kind, colour = str(rng.choice(list(clevr.MATERIALS))), str(rng.choice(list(clevr.COLOURS)))
        surface = replace(clevr.MATERIALS[kind], colour=clevr.linear(clevr.COLOURS[colour]))
        return surface, {"material": kind, "color": colour}
    name = ground_name if variant.ground == "camouflage" else str(rng.choice(names))
    return textures.material(name, 2.0), {"material": name, "color": None}


def _ground(rng: np.random.Generator, variant: Variant, name: str) -> tuple[Material, np.ndarray | None]:
    """The ground's material and its heights: low waves that no object sinks into."""
    if variant.ground == "plain":
        return replace(clevr.GROUND, name="plain"), None
    heights = -0.15 * textures.noise(rng, 32, 2)[::2, ::2]
    if variant.ground == "grass":
        blades = textures.noise(rng, 64, 2)[..., None]
        texture = (np.array(GRASS.colour) * (0.5 + blades)).astype(np.float32)
        return replace(GRASS, texture=texture, texture_scale=GROUND_REPEATS), heights
    # A ground of metal would mirror the lamps into every picture.
    return replace(textures.material(name, GROUND_REPEATS), metallic=0.0, roughness=0.8), heights


def make_scene(index: int, *, variant: str, seed: int, samples: int, width: int, height: int) -> Files:
    """The files of scene `index`: picture, label map and JSON, in folders of a thousand."""
    rng = sample_rng(seed, f"clevrtex_{variant}", index)
    scene, description = draw_scene(rng, VARIANTS[variant], width, height)
    drawn: Rendering = render(scene, samples, seed=int(rng.integers(2**31)))
    stem = f"{index // PER_FOLDER}/CLEVRTEX_{variant}_{index:06d}"
    return {
        f"{stem}.png": png(drawn.image),
        f"{stem}_flat.png": png(drawn.index),
        f"{stem}.json": json.dumps(description).encode(),
    }
