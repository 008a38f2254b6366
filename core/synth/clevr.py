"""CLEVR-like still scenes (Johnson et al. 2017): three shapes, two sizes, two materials, eight colours on grey ground.

Object counts, sizes, colours, distances and the camera are those of the published generator; the picture is drawn by
another renderer with procedural materials, so it is like CLEVR and not CLEVR.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, UInt8

from core.synth.render import index_of, render
from core.synth.scene import Camera, Light, Material, Scene, SceneObject, rotation_about_z

SHAPES = ("cube", "sphere", "cylinder")
SIZES = {"small": 0.35, "large": 0.7}
MATERIALS = {"rubber": Material(roughness=0.7), "metal": Material(roughness=0.15, metallic=0.85)}
COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
FACTOR_NAMES = ("x", "y", "z", "rotation", "size", "material", "shape", "color", "visibility")
CAMERA = (7.48, -6.51, 5.34)
TARGET = (0.0, 0.0, 0.3)
REACH = 3.0  # objects stand within this distance of the centre, along x and y
GAP = 0.25  # between objects on the ground
FEWEST_PIXELS = 200  # of an object at 320x240, else the scene is drawn again
MOST_TRIES = 50


@dataclass(frozen=True)
class Thing:
    """One object by its names."""

    shape: str
    size: str
    material: str
    colour: str
    rotation: float
    position: tuple[float, float]

    def place(self) -> SceneObject:
        """The body on the ground."""
        size = SIZES[self.size] / (2**0.5 if self.shape == "cube" else 1)
        material = replace(MATERIALS[self.material], colour=linear(COLOURS[self.colour]), name=self.material)
        return SceneObject(self.shape, size, (*self.position, size), rotation_about_z(self.rotation), material)

    def factors(self) -> list[float]:
        """The numbers of `FACTOR_NAMES`; categories count from 1, in the order of the tables above."""
        categories = (
            list(table).index(name) + 1
            for table, name in (
                (SIZES, self.size),
                (MATERIALS, self.material),
                (SHAPES, self.shape),
                (COLOURS, self.colour),
            )
        )
        return [*self.place().position, self.rotation, *categories, 1.0]


def linear(srgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """Reflectance of an sRGB colour of 0..255."""
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in np.array(srgb) / 255
    )
    return float(red), float(green), float(blue)


def draw_things(rng: np.random.Generator, fewest: int, most: int, reach: float = REACH) -> list[Thing]:
    """Between `fewest` and `most` objects, all their properties uniform, that keep `GAP` between them."""
    while True:
        things: list[Thing] = []
        count = int(rng.integers(fewest, most + 1))
        for _ in range(MOST_TRIES * count):
            thing = Thing(
                shape=str(rng.choice(SHAPES)),
                size=str(rng.choice(list(SIZES))),
                material=str(rng.choice(list(MATERIALS))),
                colour=str(rng.choice(list(COLOURS))),
                rotation=float(rng.uniform(0, 2 * np.pi)),
                position=(float(rng.uniform(-reach, reach)), float(rng.uniform(-reach, reach))),
            )
            if all(are_apart(thing, other) for other in things):
                things.append(thing)
            if len(things) == count:
                return things


def are_apart(thing: Thing, other: Thing) -> bool:
    distance = np.hypot(*np.subtract(thing.position, other.position))
    return bool(distance > SIZES[thing.size] + SIZES[other.size] + GAP)


def draw_camera(rng: np.random.Generator, width: int, height: int, jitter: float = 0.5) -> Camera:
    """The published camera, moved by up to `jitter` along each axis."""
    position = np.array(CAMERA) + rng.uniform(-jitter, jitter, 3)
    return Camera(tuple(map(float, position)), TARGET, width=width, height=height)


def draw_lights(rng: np.random.Generator, jitter: float = 1.0) -> tuple[Light, ...]:
    """A key lamp from the left, a fill lamp from the right and one from behind, moved by up to `jitter`."""
    lamps = (((-4.0, -4.5, 7.0), 1.5, 95.0), ((9.5, -2.5, 7.0), 2.5, 45.0), ((-2.0, 6.0, 6.0), 2.0, 45.0))
    return tuple(
        Light(tuple(map(float, np.array(position) + rng.uniform(-jitter, jitter, 3))), size, power)
        for position, size, power in lamps
    )


GROUND = Material((0.42, 0.42, 0.43), roughness=0.9)


def draw_scene(
    rng: np.random.Generator, fewest: int, most: int, width: int = 320, height: int = 240
) -> tuple[Scene, list[Thing]]:
    """A scene of which every object shows enough pixels."""
    enough = FEWEST_PIXELS * width * height / (320 * 240)
    while True:
        things = draw_things(rng, fewest, most)
        objects = tuple(thing.place() for thing in things)
        scene = Scene(objects, draw_camera(rng, width, height), draw_lights(rng), GROUND)
        pixels = np.bincount(index_of(scene).ravel(), minlength=len(things) + 1)[1:]
        if pixels.min() >= enough:
            return scene, things


def sample(
    rng: np.random.Generator, fewest: int, most: int, samples: int = 8, width: int = 320, height: int = 240
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "E H W"], Float32[np.ndarray, "E 9"]]:
    """Picture, masks of 0 or 255 and factors of a scene, as `core.synth.h5_writer.write_h5` takes them.

    E is 1 + `most`; row 0 is the background (its visibility 1), rows behind the last object are zero.
    """
    scene, things = draw_scene(rng, fewest, most, width, height)
    drawn = render(scene, samples, seed=int(rng.integers(2**31)))
    factors = np.zeros((1 + most, len(FACTOR_NAMES)), np.float32)
    factors[0, -1] = 1
    factors[1 : 1 + len(things)] = [thing.factors() for thing in things]
    masks = (drawn.index == np.arange(1 + most, dtype=np.uint8)[:, None, None]) * np.uint8(255)
    return drawn.image, masks, factors
