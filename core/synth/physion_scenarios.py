"""The eight scenarios of the Physion stand-in: who stands where and how it moves at the start.

After the scenarios of Physion (Bear et al. 2021), in small and with rigid convex bodies only. Two of them are further
from the original than the others: Drape has a stiff plate in the place of cloth; Link has objects on top of a pole or
on their way around it, since a ring around a pole is not convex.

Things happen along x, near the origin, within about 3 units of it. Each setup has one red and one yellow object.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from core.synth.clevr import linear
from core.synth.physics import GRAVITY, Body
from core.synth.scene import Material, SceneObject, rotation_about_z

MARKS = {"red": (205, 20, 20), "yellow": (250, 215, 15)}
OTHERS = {
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "cyan": (41, 190, 208),
    "purple": (110, 38, 192),
    "white": (225, 225, 228),
    "gray": (87, 87, 87),
}
SHAPES = ("cube", "sphere", "cylinder")
MAT = 0.012  # half the height of a target zone, the upper half of which is above the ground
GAP = 0.01  # between bodies that stand on each other, so that nothing starts inside another

Triple = tuple[float, float, float]
STILL: Triple = (0.0, 0.0, 0.0)


@dataclass
class Setup:
    """Objects and how they move, in the order in which they were put there."""

    objects: list[SceneObject] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    colours: list[str] = field(default_factory=list)

    @property
    def red(self) -> int:
        return self.colours.index("red")

    @property
    def yellow(self) -> int:
        return self.colours.index("yellow")

    def put(
        self,
        shape: str,
        half_sides: Triple,
        position: Triple,
        colour: str,
        rotation: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0),
        *,
        velocity: Triple = STILL,
        spin: Triple = STILL,
        density: float = 1.0,
        fixed: bool = False,
    ) -> None:
        """Add a body whose centre is at `position`; red and yellow once each."""
        size = max(half_sides)
        x, y, z = (float(side / size) for side in half_sides)
        material = Material(linear((MARKS | OTHERS)[colour]), roughness=0.6, name=colour)
        place = tuple(float(value) for value in position)
        self.objects.append(SceneObject(shape, float(size), place, rotation, material, (x, y, z)))
        self.bodies.append(Body(tuple(map(float, velocity)), tuple(map(float, spin)), float(density), fixed))
        self.colours.append(colour)

    def put_zone(self, x: float, y: float, half_x: float, half_y: float) -> None:
        """The yellow target as a flat mat on the ground."""
        self.put("cube", (half_x, half_y, MAT), (x, y, 0.0), "yellow", fixed=True)

    def describe(self) -> list[dict]:
        return [
            {
                "shape": thing.shape,
                "half_sides": thing.half_sides.round(5).tolist(),
                "colour": colour,
                "density": body.density,
                "fixed": body.fixed,
            }
            for thing, body, colour in zip(self.objects, self.bodies, self.colours)
        ]


def draw_setup(scenario: str, rng: np.random.Generator, far_side: int) -> Setup:
    """A setup of the scenario, with up to two bystanders on the far side: 1 for large y, -1 for small."""
    setup = DRAWS[scenario](rng)
    count = int(rng.integers(0, 3))
    for left in (-2.6, 0.6)[:count]:
        shape, size = _shape(rng), rng.uniform(0.25, 0.45)
        place = (left + rng.uniform(0, 2), far_side * rng.uniform(2.4, 3.2), size)
        setup.put(shape, (size, size, size), place, _other(rng), _turned(rng))
    return setup


def _shape(rng: np.random.Generator) -> str:
    return str(rng.choice(SHAPES))


def _other(rng: np.random.Generator) -> str:
    return str(rng.choice(list(OTHERS)))


def _turned(rng: np.random.Generator) -> tuple[float, float, float, float]:
    return rotation_about_z(float(rng.uniform(0, 2 * np.pi)))


def _about_x(angle: float) -> tuple[float, float, float, float]:
    return float(np.cos(angle / 2)), float(np.sin(angle / 2)), 0.0, 0.0


def _about_y(angle: float) -> tuple[float, float, float, float]:
    return float(np.cos(angle / 2)), 0.0, float(np.sin(angle / 2)), 0.0


def _target(setup: Setup, rng: np.random.Generator, x: float, y: float) -> None:
    """The yellow target on the ground: a mat or a body."""
    size = float(rng.uniform(0.25, 0.4))
    if rng.random() < 0.4:
        setup.put_zone(x, y, size + 0.1, size + 0.1)
    else:
        setup.put(_shape(rng), (size, size, size), (x, y, size), "yellow", _turned(rng))


def draw_collide(rng: np.random.Generator) -> Setup:
    """An object is pushed into the red one, behind which the target is."""
    setup = Setup()
    pusher, pushed = rng.uniform(0.3, 0.5, 2)
    start, aside = rng.uniform(-2.8, -2.2), rng.uniform(-0.15, 0.15)
    speed, density = rng.uniform(4.0, 6.5), rng.uniform(0.8, 2.5)
    shape, colour = _shape(rng), _other(rng)
    setup.put(shape, (pusher,) * 3, (start, aside, pusher + GAP), colour, velocity=(speed, 0.0, 0.0), density=density)
    shape, place = _shape(rng), rng.uniform(-1.0, -0.5)
    setup.put(shape, (pushed,) * 3, (place, 0.0, pushed + GAP), "red", _turned(rng))
    _target(setup, rng, place + pushed + rng.uniform(0.9, 2.3), rng.uniform(-0.8, 0.8))
    return setup


def draw_contain(rng: np.random.Generator) -> Setup:
    """Objects fall towards a container of four walls, on whose bottom the target is; the red one falls last."""
    setup = Setup()
    width, depth, height = rng.uniform(0.65, 0.95), rng.uniform(0.65, 0.9), rng.uniform(0.1, 0.22)
    thickness, colour = 0.07, _other(rng)
    for side in (-1, 1):
        along = (width + 2 * thickness, thickness, height)
        setup.put("cube", along, (0.0, side * (depth + thickness), height), colour, fixed=True)
        setup.put("cube", (thickness, depth, height), (side * (width + thickness), 0.0, height), colour, fixed=True)
    if rng.random() < 0.5:
        setup.put_zone(0.0, 0.0, 0.8 * width, 0.8 * depth)
    else:
        size = rng.uniform(0.18, 0.28)
        place = (rng.uniform(-0.3, 0.3), rng.uniform(-0.25, 0.25), size)
        setup.put(_shape(rng), (size,) * 3, place, "yellow", _turned(rng))
    level = 1.2
    for _ in range(int(rng.integers(0, 3))):
        size, x, y = rng.uniform(0.2, 0.4), rng.uniform(-0.8, 0.8), rng.uniform(-0.4, 0.4)
        setup.put(_shape(rng), (size,) * 3, (x, y, level), _other(rng), _turned(rng))
        level += 0.8
    size, x, y = rng.uniform(0.22, 0.38), rng.uniform(-1.5, 1.5), rng.uniform(-0.4, 0.4)
    speed = (-0.6 * x + rng.uniform(-1.2, 1.2), 0.0, 0.0)
    setup.put(_shape(rng), (size,) * 3, (x, y, level + 0.2), "red", _turned(rng), velocity=speed)
    return setup


def draw_dominoes(rng: np.random.Generator) -> Setup:
    """A row of thin boxes of which the first is pushed and the last is red; a gap may be too wide."""
    setup = Setup()
    count, height, thickness = int(rng.integers(3, 6)), rng.uniform(0.4, 0.6), rng.uniform(0.06, 0.1)
    width, colour = rng.uniform(0.25, 0.4), _other(rng)
    gaps = 2 * height * rng.uniform(0.4, 0.75, count)
    if rng.random() < 0.35:
        gaps[int(rng.integers(count - 1))] = 2 * height * rng.uniform(1.1, 1.4)
    x, y = -gaps[:-1].sum() / 2 - 0.6, 0.0
    push = rng.uniform(1.2, 2.2)
    for number in range(count):
        first = number == 0
        setup.put(
            "cube",
            (thickness, width, height),
            (x, y, height + GAP / 2),
            "red" if number == count - 1 else colour,
            rotation_about_z(0.0 if first else float(rng.uniform(-0.15, 0.15))),
            velocity=(push * height, 0.0, 0.0) if first else STILL,
            spin=(0.0, push, 0.0) if first else STILL,
        )
        x, y = x + gaps[number], y + rng.uniform(-0.1, 0.1)
    _target(setup, rng, x - gaps[-1] + thickness + 2 * height * rng.uniform(0.75, 1.5), y + rng.uniform(-0.3, 0.3))
    return setup


def draw_drape(rng: np.random.Generator) -> Setup:
    """A broad red plate, for the cloth that there is none of, falls over bodies of different heights."""
    setup = Setup()
    support = rng.uniform(0.35, 0.5)
    tall = rng.uniform(0.35, 0.75)
    shape = str(rng.choice(("cube", "cylinder")))
    setup.put(shape, (support, support, tall), (0.0, 0.0, tall), _other(rng), density=3.0)
    size = rng.uniform(0.2, 0.35)
    angle = rng.uniform(0, 2 * np.pi)
    away = support * 1.42 + size * 1.42 + rng.uniform(0.05, 0.7)
    place = (away * np.cos(angle), away * np.sin(angle), size)
    setup.put(_shape(rng), (size,) * 3, place, "yellow", _turned(rng))
    if rng.random() < 0.6:
        other = rng.uniform(0.2, 0.4)
        opposite = angle + np.pi + rng.uniform(-0.8, 0.8)
        away = support * 1.42 + other * 1.42 + rng.uniform(0.05, 0.5)
        place = (away * np.cos(opposite), away * np.sin(opposite), other)
        setup.put(_shape(rng), (other,) * 3, place, _other(rng), _turned(rng))
    half = rng.uniform(0.7, 1.1, 2)
    aside = rng.uniform(-0.1, 0.7)
    place = (aside * np.cos(angle), aside * np.sin(angle), 2 * tall + rng.uniform(0.4, 1.2))
    setup.put("cube", (half[0], half[1], 0.07), place, "red", _turned(rng), density=0.5)
    return setup


def draw_drop(rng: np.random.Generator) -> Setup:
    """The red object falls onto one of others, from which it may bounce to the yellow one."""
    setup = Setup()
    size = rng.uniform(0.25, 0.45)
    setup.put(_shape(rng), (size,) * 3, (0.0, 0.0, size), "yellow", _turned(rng))
    for side in (-1, 1)[: int(rng.integers(0, 3))]:
        other = rng.uniform(0.3, 0.5)
        place = (side * (1.42 * (size + other) + rng.uniform(0.05, 0.6)), rng.uniform(-0.4, 0.4), other)
        setup.put(_shape(rng), (other,) * 3, place, _other(rng), _turned(rng))
    falling = rng.uniform(0.25, 0.45)
    place = (rng.uniform(-2.0, 2.0), rng.uniform(-0.5, 0.5), rng.uniform(1.8, 3.0))
    turn = rng.normal(size=4)
    w, x, y, z = (float(value) for value in turn / np.linalg.norm(turn))
    setup.put(_shape(rng), (falling,) * 3, place, "red", (w, x, y, z))
    return setup


def draw_link(rng: np.random.Generator) -> Setup:
    """A pole that the red object is knocked off from, or must come around, and the target at its foot."""
    setup = Setup()
    knocked = rng.random() < 0.5
    radius, height = rng.uniform(0.2, 0.35), rng.uniform(0.45, 0.8)
    setup.put("cylinder", (radius, radius, height), (0.0, 0.0, height), _other(rng), fixed=True)
    size = rng.uniform(0.25, 0.38)
    if knocked:
        shape = str(rng.choice(("cube", "cylinder")))
        setup.put(shape, (size,) * 3, (0.0, 0.0, 2 * height + size + GAP), "red", _turned(rng))
        ball, above = rng.uniform(0.2, 0.32), rng.uniform(-0.2, 0.25)
        start, speed = rng.uniform(1.6, 2.4), rng.uniform(3.5, 6.0)
        # Thrown so high that it is back at its height when it arrives.
        rise = GRAVITY * start / speed / 2
        place = (-start, rng.uniform(-0.25, 0.25), 2 * height + size + above)
        setup.put("sphere", (ball,) * 3, place, _other(rng), velocity=(speed, 0.0, rise), density=2.5)
        _target(setup, rng, radius + rng.uniform(0.5, 1.5), rng.uniform(-0.4, 0.4))
    else:
        place = (rng.uniform(-2.7, -1.9), rng.uniform(-0.9, 0.9), size + GAP)
        speed = (rng.uniform(4.0, 6.5), -place[1] * rng.uniform(0.0, 1.2), 0.0)
        setup.put(_shape(rng), (size,) * 3, place, "red", _turned(rng), velocity=speed)
        _target(setup, rng, radius + rng.uniform(0.5, 1.2), np.sign(place[1]) * rng.uniform(-0.2, 0.8))
    return setup


def draw_roll(rng: np.random.Generator) -> Setup:
    """The red object goes down a ramp; the target is some way behind its end, something may be between."""
    setup = Setup()
    length, slope, thickness = rng.uniform(1.0, 1.4), rng.uniform(0.35, 0.65), 0.06
    middle, colour = -1.9, _other(rng)
    along, up = np.cos(slope), np.sin(slope)
    height = length * up
    setup.put("cube", (length, 0.7, thickness), (middle, 0.0, height), colour, _about_y(slope), fixed=True)
    post = (height + 0.8 * length * up - thickness / along) / 2
    setup.put("cube", (0.08, 0.5, post), (middle - 0.8 * length * along, 0.0, post), colour, fixed=True)
    size, aside = rng.uniform(0.22, 0.35), rng.uniform(-0.3, 0.3)
    above = thickness + size + GAP
    back = rng.uniform(0.4, 0.75) * length
    place = (middle - back * along + above * up, aside, height + back * up + above * along)
    shape = str(rng.choice(("sphere", "cylinder", "cube"), p=(0.45, 0.3, 0.25)))
    # Cylinders lie across the ramp; cubes stand on it.
    turned = {"sphere": _about_y(0.0), "cylinder": _about_x(np.pi / 2), "cube": _about_y(slope)}[shape]
    setup.put(shape, (size,) * 3, place, "red", turned)
    foot = middle + length * along
    _target(setup, rng, foot + rng.uniform(1.4, 3.2), aside + rng.uniform(-1.0, 1.0))
    if rng.random() < 0.4:
        other = rng.uniform(0.15, 0.28)
        place = (foot + rng.uniform(0.4, 0.8), aside + rng.uniform(-0.7, 0.7), other)
        setup.put(_shape(rng), (other,) * 3, place, _other(rng), _turned(rng))
    return setup


def draw_support(rng: np.random.Generator) -> Setup:
    """A stack that holds or falls, the red object on top of it, and the target beside it."""
    setup = Setup()
    x, y, level, half = 0.0, 0.0, 0.0, 0.0
    for number in range(count := int(rng.integers(3, 5))):
        top = number == count - 1
        below, half = half, rng.uniform(0.25, 0.42)
        tall = half if top else rng.uniform(0.15, 0.4)
        if number:
            x += rng.uniform(-0.3, 1.3) * below
            y += rng.uniform(-0.3, 0.3) * below
        shape = "cube" if number == 0 else str(rng.choice(("cube", "cylinder")))
        colour = "red" if top else _other(rng)
        setup.put(
            shape, (half, half, tall), (x, y, level + tall + GAP), colour, rotation_about_z(rng.uniform(-0.3, 0.3))
        )
        level += 2 * tall + GAP
    beside = 0.5 + rng.uniform(0.3, 0.9)
    if rng.random() < 0.6:
        setup.put_zone(beside + 0.5, 0.0, rng.uniform(0.5, 0.8), rng.uniform(0.6, 0.9))
    else:
        size = rng.uniform(0.3, 0.45)
        setup.put(_shape(rng), (size,) * 3, (beside + size, rng.uniform(-0.3, 0.3), size), "yellow", _turned(rng))
    return setup


DRAWS: dict[str, Callable[[np.random.Generator], Setup]] = {
    "Collide": draw_collide,
    "Contain": draw_contain,
    "Dominoes": draw_dominoes,
    "Drape": draw_drape,
    "Drop": draw_drop,
    "Link": draw_link,
    "Roll": draw_roll,
    "Support": draw_support,
}
