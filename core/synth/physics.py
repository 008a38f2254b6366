"""Rigid bodies that fall, slide and collide (MuJoCo, Todorov et al. 2012)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import mujoco
import numpy as np
from jaxtyping import Bool, Float

from core.synth.scene import SceneObject
from core.synth.shapes import mesh_of

GRAVITY = 9.81
STEPS_PER_SECOND = 480
SPRING = 0.2  # radians per step of the spring between touching bodies


@dataclass(frozen=True)
class Body:
    """How a scene object moves: its speed at the start, its density (mass per volume), whether it moves at all."""

    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Angular velocity, radians per second."""
    density: float = 1.0
    fixed: bool = False
    start: float = 0.0
    """When it is given its speed, in seconds."""


@dataclass(frozen=True)
class Contact:
    """The first touch of two objects after they were apart, and how strongly they met."""

    time: float
    first: int
    second: int
    """Numbers of the objects, the smaller first; -1 is the ground."""
    impulse: float


@dataclass(frozen=True)
class Motion:
    """Where every object is in every frame. T frames, N objects."""

    positions: Float[np.ndarray, "T N 3"]
    rotations: Float[np.ndarray, "T N 4"]
    velocities: Float[np.ndarray, "T N 3"]
    spins: Float[np.ndarray, "T N 3"]
    contacts: tuple[Contact, ...]
    """In the order of time."""
    touching: Bool[np.ndarray, "T N N"]
    """Which objects touch in each frame."""
    deepest: float
    """The deepest that any two bodies were in each other."""


def simulate(
    objects: Sequence[SceneObject],
    bodies: Sequence[Body],
    num_frames: int,
    frames_per_second: float,
    *,
    friction: float = 0.4,
    restitution: float = 0.3,
    gravity: float = GRAVITY,
    ground: bool = True,
    separation: float = 0.1,
    rolling_friction: float = 0.0,
) -> Motion:
    """Move `objects`, the first frame being the start. The same on every run.

    `restitution` is the share of the speed that two bodies keep when they meet head on. Bodies that come apart for
    less than `separation` seconds are still in the same contact. `rolling_friction` is a length, the lever of the force
    that slows what rolls; without it balls roll for ever.
    """
    world = _xml(objects, bodies, friction, restitution, gravity, ground, rolling_friction)
    model = mujoco.MjModel.from_xml_string(world)
    data = mujoco.MjData(model)
    movable = [number for number, body in enumerate(bodies) if not body.fixed]
    body_ids = [model.body(f"object_{number}").id for number in range(len(objects))]
    owner = {body: number for number, body in enumerate(body_ids)}
    frames, touching, contacts = [], [], []
    last_touch: dict[tuple[int, int], float] = {}
    deepest = 0.0
    for step in range(math.ceil((num_frames - 1) * STEPS_PER_SECOND / frames_per_second) + 1):
        for place, number in enumerate(movable):
            if step == round(bodies[number].start * STEPS_PER_SECOND):
                data.qvel[6 * place : 6 * place + 3] = bodies[number].velocity
                data.qvel[6 * place + 3 : 6 * place + 6] = bodies[number].spin
        mujoco.mj_forward(model, data) if step == 0 else mujoco.mj_step(model, data)
        now = _touching(model, data, owner)
        for pair, (depth, impulse) in now.items():
            deepest = max(deepest, depth)
            if data.time - last_touch.get(pair, -math.inf) > separation:
                contacts.append(Contact(float(data.time), *pair, impulse))
            last_touch[pair] = data.time
        if step >= len(frames) * STEPS_PER_SECOND / frames_per_second:
            frames.append(_state(model, data, body_ids))
            table = np.zeros((len(objects), len(objects)), bool)
            for first, second in now:
                if first >= 0:
                    table[first, second] = table[second, first] = True
            touching.append(table)
    positions, rotations, velocities, spins = (np.stack(values) for values in zip(*frames))
    return Motion(positions, rotations, velocities, spins, tuple(contacts), np.stack(touching), deepest)


def _state(model, data, body_ids: list[int]) -> tuple[np.ndarray, ...]:
    velocities, spins = [], []
    motion = np.zeros(6)
    for body in body_ids:
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, body, motion, 0)
        spins.append(motion[:3].copy())
        velocities.append(motion[3:].copy())
    return data.xpos[body_ids].copy(), data.xquat[body_ids].copy(), np.stack(velocities), np.stack(spins)


def _touching(model, data, owner: dict[int, int]) -> dict[tuple[int, int], tuple[float, float]]:
    """Depth and normal force times a step of every pair of bodies in contact."""
    found: dict[tuple[int, int], tuple[float, float]] = {}
    force = np.zeros(6)
    for number in range(data.ncon):
        contact = data.contact[number]
        pair = sorted(owner.get(int(model.geom_bodyid[geom]), -1) for geom in contact.geom)
        mujoco.mj_contactForce(model, data, number, force)
        depth, impulse = found.get((pair[0], pair[1]), (0.0, 0.0))
        found[pair[0], pair[1]] = max(depth, -float(contact.dist)), impulse + float(force[0]) / STEPS_PER_SECOND
    return found


def _xml(
    objects, bodies, friction: float, restitution: float, gravity: float, ground: bool, rolling_friction: float
) -> str:
    # A damped spring that swings once in thirty steps, and loses as much as the restitution asks for.
    ratio = 1.0
    if restitution > 0:
        log = math.log(restitution)
        ratio = -log / math.sqrt(math.pi**2 + log**2)
    time_constant = 1 / (STEPS_PER_SECOND * SPRING * ratio)
    rolling, dimensions = (rolling_friction, 6) if rolling_friction > 0 else (0.0001, 4)
    surface = f'friction="{friction} 0.005 {rolling}" solref="{time_constant} {ratio}" condim="{dimensions}"'
    meshes, parts = [], []
    for number, (thing, body) in enumerate(zip(objects, bodies)):
        geometry = _geometry(thing, number, meshes)
        place = f'pos="{_numbers(thing.position)}" quat="{_numbers(thing.rotation)}"'
        joint = "" if body.fixed else "<freejoint/>"
        parts.append(
            f'<body name="object_{number}" {place}>{joint}<geom {geometry} density="{body.density}" {surface}/></body>'
        )
    if ground:
        parts.append(f'<geom type="plane" size="0 0 1" {surface}/>')
    option = f'timestep="{1 / STEPS_PER_SECOND}" gravity="0 0 {-gravity}" integrator="implicitfast" cone="elliptic"'
    return (
        f'<mujoco><option {option} impratio="10"/><asset>{"".join(meshes)}</asset>'
        f"<worldbody>{''.join(parts)}</worldbody></mujoco>"
    )


def _geometry(thing: SceneObject, number: int, meshes: list[str]) -> str:
    x, y, z = thing.half_sides
    if thing.shape == "cube":
        return f'type="box" size="{_numbers((x, y, z))}"'
    if thing.shape == "sphere":
        return f'type="ellipsoid" size="{_numbers((x, y, z))}"' if len({x, y, z}) > 1 else f'type="sphere" size="{x}"'
    if thing.shape == "cylinder" and not thing.oval:
        return f'type="cylinder" size="{_numbers((x, z))}"'
    mesh = mesh_of(thing.shape, thing.oval)
    vertices = (mesh[0] * thing.half_sides).ravel()
    meshes.append(f'<mesh name="mesh_{number}" vertex={quoteattr(_numbers(vertices))}/>')
    return f'type="mesh" mesh="mesh_{number}"'


def _numbers(values) -> str:
    return " ".join(f"{value:.9g}" for value in values)
