"""Runs a puzzle in pymunk with the constants and the goal of PHYRE's ball tier (Bakhtin et al. 2019).

Status and pictures depend on (scene, action) alone: every run builds its own space, and pymunk draws no random numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import pymunk
from jaxtyping import Bool, Float, UInt8

from core.synth.phyre.bodies import BLUE, GREEN, PURPLE, RED, SIDE, Body, gap_to_discs, walls
from core.synth.phyre.raster import rasterise

SOURCE = "pymunk stand-in, not PHYRE"
"""Stands wherever results come from this world."""

PIXELS_PER_METRE = 6
GRAVITY = -9.8 * PIXELS_PER_METRE
DENSITY = 0.25 / PIXELS_PER_METRE**2
FRICTION = 0.5
RESTITUTION = 0.2
ANGULAR_DAMPING = 0.01
TIME_STEP = 1 / 60
ITERATIONS = 15
MAX_STEPS = 1000
STEPS_TOUCHING = 180
DEFAULT_STRIDE = 60

DISC_TOUCH = 0.1
VALIDITY_TOLERANCE = 1e-5

# Box2D's habits in pymunk's terms: overlap that is left alone, share of the rest undone per step, and bodies that have
# been still for half a second stop for good (Box2D's 0.01 m/s is below the tremor of pymunk's solver).
SLOP = 0.03
OVERLAP_UNDONE = 0.2
SECONDS_TO_SLEEP = 0.5
STILL = 0.05 * PIXELS_PER_METRE
STEPS_BETWEEN_SLEEP_CHECKS = 10


class SimulationStatus(IntEnum):
    """What becomes of an action, in PHYRE's numbers."""

    NOT_SOLVED = -1
    INVALID_INPUT = 0
    SOLVED = 1


@dataclass(frozen=True, eq=False)
class Scene:
    """A puzzle: its bodies, without walls, in the order in which they are drawn; one is green, one blue or purple."""

    task_id: str
    bodies: tuple[Body, ...]

    @property
    def goal(self) -> tuple[int, int]:
        """Places of the two bodies that have to touch."""
        (first,) = (place for place, body in enumerate(self.bodies) if body.colour == GREEN)
        (second,) = (place for place, body in enumerate(self.bodies) if body.colour in (BLUE, PURPLE))
        return first, second


def valid_actions(scene: Scene, actions: Float[np.ndarray, "N 3"]) -> Bool[np.ndarray, "N"]:
    """Whether (x, y, r) are within [0, 1] and give a ball that lies within the canvas and overlaps no body."""
    centres, radii = _placement(actions)
    is_valid = ((actions >= 0) & (actions <= 1)).all(axis=1)
    is_valid &= ((centres >= radii[:, None]) & (centres <= SIDE - radii[:, None])).all(axis=1)
    for body in scene.bodies:
        is_valid &= gap_to_discs(body, centres, radii) >= -VALIDITY_TOLERANCE
    return is_valid


def user_ball(action: Float[np.ndarray, "3"]) -> Body:
    """The red ball of an action: its centre truncated and its radius rounded (half to even) to whole pixels."""
    (centre,), (radius,) = _placement(action[None])
    return Body(RED, float(int(centre[0])), float(int(centre[1])), radius=float(round(radius)))


def _placement(actions: Float[np.ndarray, "N 3"]) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N"]]:
    actions = actions.astype(np.float64)
    return (SIDE - 1) * actions[:, :2], 2 + 30 * actions[:, 2]


def simulate(
    bodies: Sequence[Body], goal: tuple[int, int], stride: int = DEFAULT_STRIDE, need_images: bool = True
) -> tuple[SimulationStatus, UInt8[np.ndarray, "F 256 256"] | None]:
    """Let bodies go until the two at the places `goal` have touched for 180 steps in a row, at most for 1000 steps.

    Pictures are taken after step 0, `stride`, 2 `stride`, ...
    """
    moving = MovingBodies(bodies, goal)
    pictures: list[np.ndarray] = []
    drawn = None
    is_asleep = is_touching = False
    steps_touching = 0
    for step in range(MAX_STEPS):
        if not is_asleep and step % STEPS_BETWEEN_SLEEP_CHECKS == 0:
            is_asleep = moving.is_asleep()  # then nothing can move any more: only pictures and touching steps go on
        if not is_asleep:
            moving.step()
            is_touching = moving.is_touching()
        if need_images and step % stride == 0:
            poses = moving.poses()
            pictures.append(pictures[-1] if poses == drawn else rasterise(moving.bodies()))
            drawn = poses
        steps_touching = steps_touching + 1 if is_touching else 0
        if steps_touching == STEPS_TOUCHING:
            break
    status = SimulationStatus.SOLVED if steps_touching == STEPS_TOUCHING else SimulationStatus.NOT_SOLVED
    return status, np.stack(pictures) if need_images else None


class MovingBodies:
    """Bodies within the four walls, in a pymunk space."""

    def __init__(self, bodies: Sequence[Body], goal: tuple[int, int]):
        self._start = tuple(bodies)
        self._space = pymunk.Space()
        self._space.gravity = (0, GRAVITY)
        self._space.iterations = ITERATIONS
        self._space.collision_slop = SLOP
        self._space.collision_bias = (1 - OVERLAP_UNDONE) ** (1 / TIME_STEP)
        self._space.sleep_time_threshold = SECONDS_TO_SLEEP
        self._space.idle_speed_threshold = STILL
        for wall in walls():
            self._add(wall)
        self._bodies = [self._add(body) for body in bodies]
        self._dynamic = [added for body, added in zip(bodies, self._bodies) if body.is_dynamic]
        self._goal = [self._bodies[place] for place in goal]
        radii = [bodies[place].radius for place in goal]
        self._disc_reach = sum(radii) + DISC_TOUCH if all(radii) else None
        self._contacts = 0
        for collision_type, added in enumerate(self._goal, start=1):
            for shape in added.shapes:
                shape.collision_type = collision_type
        self._space.on_collision(1, 2, begin=self._begin_contact, separate=self._end_contact)

    def _add(self, body: Body) -> pymunk.Body:
        added = pymunk.Body(body_type=pymunk.Body.DYNAMIC if body.is_dynamic else pymunk.Body.STATIC)
        added.position, added.angle = (body.x, body.y), body.angle
        shapes: list[pymunk.Shape] = [pymunk.Poly(added, polygon.tolist()) for polygon in body.polygons]
        if body.radius:
            shapes.append(pymunk.Circle(added, body.radius))
        for shape in shapes:
            # For a pair, pymunk takes the product; Box2D the root of the product of frictions, the larger restitution.
            shape.friction, shape.elasticity = math.sqrt(FRICTION), math.sqrt(RESTITUTION)
            if body.is_dynamic:
                shape.density = DENSITY
        self._space.add(added, *shapes)
        if body.is_dynamic:
            # A space damps turning and moving alike. A spring without stiffness damps turning alone.
            spring = pymunk.DampedRotarySpring(self._space.static_body, added, 0, 0, ANGULAR_DAMPING * added.moment)
            self._space.add(spring)
        return added

    def _begin_contact(self, *_: Any) -> None:
        self._contacts += 1

    def _end_contact(self, *_: Any) -> None:
        self._contacts -= 1

    def step(self) -> None:
        self._space.step(TIME_STEP)

    def is_asleep(self) -> bool:
        return all(body.is_sleeping for body in self._dynamic)

    def is_touching(self) -> bool:
        """Whether the goal's bodies touch: two discs when closer than 0.1 pixels, others when in contact."""
        if self._disc_reach is None:
            return self._contacts > 0
        return math.dist(*(body.position for body in self._goal)) < self._disc_reach

    def poses(self) -> list[tuple[float, float, float]]:
        """(x, y, angle) of every body."""
        return [(*body.position, body.angle) for body in self._bodies]

    def bodies(self) -> list[Body]:
        """The bodies where they are."""
        return [
            replace(body, x=x, y=y, angle=angle) if body.is_dynamic else body
            for body, (x, y, angle) in zip(self._start, self.poses())
        ]
