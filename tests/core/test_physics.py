"""Bodies obey mechanics."""

import numpy as np
import pytest

from core.synth.physics import GRAVITY, Body, simulate
from core.synth.scene import SceneObject
from core.synth.shapes import SHAPES, resting_height


def test_free_fall():
    thing = SceneObject("cube", 0.3, (0.0, 0.0, 10.0))
    motion = simulate([thing], [Body()], 25, 24, ground=False)
    seconds = np.arange(25) / 24
    assert motion.positions[:, 0, 2] == pytest.approx(10 - GRAVITY * seconds**2 / 2, abs=0.03)
    assert motion.velocities[-1, 0] == pytest.approx([0, 0, -GRAVITY], abs=0.03)
    assert motion.contacts == ()


@pytest.mark.parametrize("restitution", [0.3, 0.6, 0.9])
def test_two_bodies_exchange_momentum_and_lose_energy_as_told(restitution):
    things = [SceneObject("sphere", 0.5, (-2.0, 0.1, 0.5)), SceneObject("sphere", 0.4, (1.0, 0.0, 0.5))]
    bodies = [Body((3.0, 0.0, 0.0), density=2.0), Body()]
    motion = simulate(things, bodies, 60, 24, friction=0.0, restitution=restitution, gravity=0.0, ground=False)
    masses = np.array([2 * 0.5**3, 0.4**3])
    momentum = (masses[:, None] * motion.velocities).sum(axis=1)
    assert momentum == pytest.approx(np.broadcast_to(momentum[0], momentum.shape), abs=1e-6)
    energy = (masses * (motion.velocities**2).sum(axis=2)).sum(axis=1)
    assert energy[-1] < energy[0]
    (contact,) = motion.contacts
    assert (contact.first, contact.second) == (0, 1)
    # Along the line of centres bodies part with that share of the speed at which they met.
    when = np.searchsorted(np.arange(60) / 24, contact.time)
    line = motion.positions[when, 1] - motion.positions[when, 0]
    line /= np.linalg.norm(line)
    before, after = ((motion.velocities[t, 1] - motion.velocities[t, 0]) @ line for t in (0, -1))
    assert -after / before == pytest.approx(restitution, abs=0.12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_body_comes_to_rest_on_the_ground(shape):
    size = 0.5
    thing = SceneObject(shape, size, (0.0, 0.0, size * resting_height(shape) + 0.5))
    motion = simulate([thing], [Body()], 144, 24)
    assert np.abs(motion.velocities[-1, 0, 2]) < 0.1
    if shape not in ("octahedron", "double_cone", "pillow", "star"):  # these stand on a point, and topple
        assert np.abs(motion.velocities[-1]).max() < 0.01
    assert 0.1 * size < motion.positions[-1, 0, 2] < 1.05 * size
    assert motion.deepest < 0.08
    assert motion.contacts[0].first == -1
    assert motion.contacts[0].second == 0
    assert np.linalg.norm(motion.rotations, axis=2) == pytest.approx(1)


def test_friction_slows_a_sliding_cube():
    thing = SceneObject("cube", 0.3, (0.0, 0.0, 0.3))
    motion = simulate([thing], [Body((2.0, 0.0, 0.0))], 24, 24, friction=0.3, restitution=0.0)
    seconds = 2.0 / (0.3 * GRAVITY)
    assert motion.positions[-1, 0, 0] == pytest.approx(2.0 * seconds / 2, rel=0.1)
    assert np.abs(motion.velocities[-1, 0, 0]) < 0.02


def test_fixed_bodies_stay():
    things = [SceneObject("cube", 0.5, (0.0, 0.0, 2.0)), SceneObject("sphere", 0.3, (0.0, 0.0, 4.0))]
    motion = simulate(things, [Body(fixed=True), Body()], 48, 24)
    assert (motion.positions[:, 0] == motion.positions[0, 0]).all()
    assert motion.positions[-1, 1, 2] == pytest.approx(2.8, abs=0.05)
    assert motion.touching[-1, 0, 1]
    assert not motion.touching[0].any()


def test_motion_is_the_same_on_every_run():
    things = [SceneObject(shape, 0.4, (0.3 * k, 0.0, 1.0 + k)) for k, shape in enumerate(SHAPES)]
    runs = [simulate(things, [Body()] * len(things), 30, 24) for _ in range(2)]
    assert (runs[0].positions == runs[1].positions).all()
    assert runs[0].contacts == runs[1].contacts
    assert runs[0].deepest < 0.15
