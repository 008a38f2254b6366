"""Shapes, pictures, physics and goal of the stand-in for PHYRE."""

import math

import numpy as np
import pymunk
import pytest

from core.synth.phyre.bodies import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    PURPLE,
    SIDE,
    Body,
    ball,
    bar,
    bar_between,
    gap_to_discs,
    jar,
    overlap,
    standing_sticks,
)
from core.synth.phyre.raster import rasterise
from core.synth.phyre.simulator import (
    GRAVITY,
    TIME_STEP,
    MovingBodies,
    SimulationStatus,
    simulate,
    user_ball,
    valid_actions,
)
from core.synth.phyre.templates import TEMPLATES, scene

FLOOR = bar_between(PURPLE, (0, 2.56), (SIDE, 2.56))


def valid(task: str, count: int, seed: int = 0) -> np.ndarray:
    """`count` random valid actions."""
    actions = np.random.default_rng(seed).random((40 * count, 3))
    return actions[valid_actions(scene(task), actions)][:count]


# Shapes


def test_sizes_of_shapes():
    small = ball(GREEN, 0.1, 50, 20)
    assert (small.radius, small.x, small.y) == (12.5, 50, 32.5)
    np.testing.assert_allclose(bar(BLACK, 0.5, 100, 60).box, (36, 57.44, 164, 62.56))
    np.testing.assert_allclose(bar(BLACK, 0.5, 100, 60, 90).box, (97.44, -4, 102.56, 124))
    pot = jar(GRAY, 0.3, 128, 10)
    np.testing.assert_allclose(pot.box, (128 - 32, 10, 128 + 32, 86.8))
    base = pot.outlines[0]
    assert np.ptp(base[:2, 0]) == pytest.approx(0.8 * 64)
    assert np.ptp(base[:, 1]) == pytest.approx(5.12)
    assert len(pot.polygons) == 3
    sticks = standing_sticks(GRAY, 0.4, 128, 0)
    assert sticks.box[1] == pytest.approx(0)
    assert sticks.box[3] == pytest.approx(102.4 * math.sin(math.radians(77.5)) + 5.12 * math.cos(math.radians(77.5)))


@pytest.mark.parametrize("body", [jar(GRAY, 0.3, 100, 0, 20), standing_sticks(GRAY, 0.3, 100, 0), bar(GRAY, 0.3, 9, 9)])
def test_bodies_lie_about_their_centre_of_mass(body):
    moving = MovingBodies([body, ball(GREEN, 0.1, 200, 0), FLOOR], (1, 2))
    assert moving._bodies[0].center_of_gravity.length < 1e-9


def test_corners_run_anticlockwise():
    for body in (jar(GRAY, 0.3, 100, 0), standing_sticks(GRAY, 0.3, 100, 0), bar(GRAY, 0.3, 9, 9)):
        for polygon in (*body.outlines, *body.mirrored().outlines):
            a, b, c = polygon[:3]
            assert (b - a)[0] * (c - b)[1] > (b - a)[1] * (c - b)[0]


def test_mirrored_bodies_are_mirror_images():
    for body in (jar(GRAY, 0.3, 80, 10, 25), bar(GRAY, 0.3, 60, 60, 30), ball(GRAY, 0.1, 33, 4)):
        assert np.abs(rasterise([body])[:, ::-1].astype(int) - rasterise([body.mirrored()])).sum() < 20 * GRAY


@pytest.mark.parametrize(
    "body", [jar(GRAY, 0.3, 100, 40, 20), standing_sticks(GRAY, 0.4, 120, 50), ball(GRAY, 0.2, 99, 9)]
)
def test_distances_agree_with_pymunk(body):
    centres = np.random.default_rng(0).uniform(0, SIDE, (500, 2))
    still = pymunk.Body(body_type=pymunk.Body.STATIC)
    shapes = [pymunk.Poly(still, polygon.tolist()) for polygon in body.outlines]
    if body.radius:
        shapes = [pymunk.Circle(still, body.radius, (body.x, body.y))]
    for shape in shapes:
        shape.cache_bb()
    expected = [max(min(shape.point_query(tuple(c)).distance for shape in shapes), 0) for c in centres]
    ours = gap_to_discs(body, centres, np.zeros(500))
    np.testing.assert_allclose(np.maximum(ours, 0), expected, atol=1e-9)


# Pictures


def brute_force(body: Body) -> np.ndarray:
    """The rule, pixel by pixel."""
    picture = np.zeros((SIDE, SIDE), bool)
    for y in range(SIDE):
        for x in range(SIDE) if body.radius else ():
            picture[y, x] = (x - body.x + 0.5) ** 2 + (y - body.y + 0.5) ** 2 <= body.radius**2
        for polygon in body.outlines:
            if not math.floor(polygon[:, 1].min() + 0.5) <= y <= math.floor(polygon[:, 1].max() + 0.5) - 1:
                continue
            crossings = []
            for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0)):
                if y1 != y2 and min(y1, y2) <= y + 0.5 <= max(y1, y2):
                    crossings.append(x1 + (y + 0.5 - y1) * (x2 - x1) / (y2 - y1))
            left, right = (math.floor(edge + 0.5) for edge in (min(crossings), max(crossings)))
            picture[y, max(left, 0) : max(right, 0)] = True
    return picture


@pytest.mark.parametrize("seed", range(4))
def test_pictures_agree_with_the_rule_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    x, y, angle = rng.uniform(-10, SIDE + 10), rng.uniform(-10, SIDE + 10), rng.uniform(0, 360)
    bodies = [
        Body(GREEN, x, y, radius=float(rng.integers(2, 40))),
        Body(GREEN, 100.0, 80.0, radius=17.0),
        bar(GREEN, 0.4, x, y, angle),
        jar(GREEN, 0.3, 128, 100, angle),
        standing_sticks(GREEN, 0.3, x, 40),
        bar(GREEN, 0.25, 100, 50),
    ]
    for body in bodies:
        np.testing.assert_array_equal(rasterise([body]), brute_force(body) * np.uint8(GREEN))


def test_later_bodies_cover_earlier_ones_and_row_0_is_the_bottom():
    picture = rasterise([ball(GREEN, 0.1, 128, 0), bar(BLACK, 1.0, 128, 10)])
    assert picture[2, 128] == GREEN
    assert picture[10, 128] == BLACK
    assert picture[100:].max() == 0
    over = rasterise([ball(BLUE, 0.1, 128, 0)], picture)
    assert (over[10, 128], picture[10, 128]) == (BLUE, BLACK)


def test_bodies_outside_the_canvas_leave_no_trace():
    outside = [
        ball(GREEN, 0.1, -40, 0),
        ball(GREEN, 0.1, 0, 300),
        bar(GREEN, 0.2, -50, 20, 30),
        bar(GREEN, 0.2, 9, -40),
    ]
    assert rasterise(outside).max() == 0


# Physics


def test_free_fall():
    moving = MovingBodies([Body(GREEN, 128.0, 240.0, radius=5.0), FLOOR], (0, 1))
    for step in range(1, 121):
        moving.step()
        fallen, seconds = 240 - moving.poses()[0][1], step * TIME_STEP
        # A step moves bodies by their speed before it: half a step behind the parabola.
        assert fallen == pytest.approx(-GRAVITY / 2 * seconds * (seconds - TIME_STEP), abs=1e-9)
    assert abs(fallen / (-GRAVITY / 2 * seconds**2) - 1) < 0.01


def test_turning_is_damped_and_moving_is_not():
    moving = MovingBodies([Body(GREEN, 128.0, 128.0, radius=5.0), FLOOR], (0, 1))
    body = moving._bodies[0]
    body.angular_velocity, body.velocity = 3.0, (12.0, 0.0)
    for _ in range(60):
        moving.step()
    assert body.angular_velocity == pytest.approx(3 * math.exp(-0.01), rel=1e-6)
    assert body.velocity.x == pytest.approx(12.0, rel=1e-12)


def test_restitution_and_friction_of_a_pair():
    moving = MovingBodies([Body(GREEN, 128.0, 100.0, radius=5.0), FLOOR], (0, 1))
    heights, speeds = [], []
    for _ in range(200):
        moving.step()
        speeds.append(moving._bodies[0].velocity.y)
        heights.append(moving.poses()[0][1])
    assert max(speeds) / -min(speeds) == pytest.approx(0.2, abs=0.02)
    for degrees, slides in ((20, False), (35, True)):  # tan of 26.6 degrees is 0.5
        slope = bar(BLACK, 0.8, 128, 100, degrees)
        block = bar(GRAY, 0.1, 0, 0, degrees)
        up = np.array([-math.sin(math.radians(degrees)), math.cos(math.radians(degrees))])
        block = block.moved(*(np.array([128, 100]) + 5.13 * up))
        moving = MovingBodies([slope, block, ball(GREEN, 0.1, 20, 0), ball(BLUE, 0.1, 240, 0)], (2, 3))
        for _ in range(90):
            moving.step()
        assert (math.dist(moving.poses()[1][:2], (block.x, block.y)) > 5) == slides


@pytest.mark.parametrize("name", ["tower", "heap_of_balls", "ball_on_standing_sticks", "jar_on_a_pedestal", "dominoes"])
def test_what_stands_neither_sinks_nor_falls(name):
    (template,) = (number for number, draw in enumerate(TEMPLATES) if draw.__name__ == name)
    for variant in (0, 1, 2):
        puzzle = scene(f"{template:05d}:{variant:03d}")
        moving = MovingBodies(puzzle.bodies, puzzle.goal)
        for _ in range(400):
            moving.step()
        drop = 8 if name == "jar_on_a_pedestal" else 0.2  # its ball starts a little above the jar's base
        for before, (x, y, _) in zip(puzzle.bodies, moving.poses()):
            assert abs(x - before.x) < 0.5
            assert -drop < y - before.y < 0.05
        assert moving.is_asleep()


def test_nothing_leaves_the_walls():
    farthest, latest = 0.0, 0.0
    for number, task in enumerate(f"{template:05d}:000" for template in range(len(TEMPLATES))):
        for action in valid(task, 3, seed=number):
            puzzle = scene(task)
            moving = MovingBodies((*puzzle.bodies, user_ball(action)), puzzle.goal)
            for step in range(600):
                moving.step()
                if step % 12 == 0 or step == 599:
                    boxes = np.array([body.box for body in moving.bodies() if body.is_dynamic])
                    outside = max(-boxes.min(), (boxes - SIDE).max())
                    farthest = max(farthest, outside)
            latest = max(latest, outside)
    # A fast body enters a wall by what it moves in one step and is pushed out again.
    assert farthest < 3
    assert latest < 0.3


# The goal


def solved_after(bodies: list[Body]) -> int | None:
    """Steps until solved."""
    status, images = simulate(bodies, (0, 1), stride=1)
    return len(images) if status == SimulationStatus.SOLVED else None


def test_touching_counts_for_180_steps_in_a_row():
    assert solved_after([ball(GREEN, 0.1, 128, 5.12), FLOOR]) in (180, 181)
    falling = [ball(GREEN, 0.1, 128, 60), FLOOR]
    moving, held, step = MovingBodies(falling, (0, 1)), 0, 0
    interruptions = 0
    while held < 180:
        moving.step()
        step += 1
        interruptions += held > 0 and not moving.is_touching()
        held = held + 1 if moving.is_touching() else 0
    assert interruptions > 0
    assert solved_after(falling) == step


@pytest.mark.parametrize(("gap", "touches"), [(0.05, True), (0.2, False)])
def test_two_balls_touch_when_less_than_a_tenth_of_a_pixel_apart(gap, touches):
    left, right = ball(GREEN, 0.1, 100, 0), ball(BLUE, 0.1, 125 + gap, 0)
    assert solved_after([left, right]) == (180 if touches else None)


@pytest.mark.parametrize("task", ["00006:003", "00014:000", "00021:001"])
def test_contact_agrees_with_geometry(task):
    puzzle = scene(task)
    compared = 0
    for action in valid(task, 40):
        bodies = (*puzzle.bodies, user_ball(action))
        if simulate(bodies, puzzle.goal, need_images=False)[0] == SimulationStatus.NOT_SOLVED:
            continue
        moving = MovingBodies(bodies, puzzle.goal)
        for _ in range(800):
            moving.step()
            first, second = (moving.bodies()[number] for number in puzzle.goal)
            if overlap(first, second, 1e-4) == overlap(first, second, -1e-4):  # else it is too close to tell
                assert moving.is_touching() == overlap(first, second, 0.0)
                compared += moving.is_touching()
        break
    assert compared > 50


def test_too_late_to_hold_for_three_seconds():
    # It rolls along the floor towards the post, which it reaches between steps 820 and 1000.
    status, images = simulate([Body(GREEN, 20.0, 12.5, radius=12.5), bar(PURPLE, 0.2, 250, 25.6, 90)], (0, 1))
    assert status == SimulationStatus.NOT_SOLVED
    assert len(images) == 17
