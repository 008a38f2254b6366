"""Twenty-five puzzles in the manner of PHYRE's ball tier (Bakhtin et al. 2019); none is one of PHYRE's own.

In each, a green body is to touch a blue one, or a purple one that stands, for three seconds. A template lists its
bodies in the order in which they are drawn; half of the variants are mirrored.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import combinations

import numpy as np

from core.synth.phyre.bodies import (
    BAR_THICKNESS,
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
    jar,
    overlap,
    standing_sticks,
)
from core.synth.phyre.simulator import Scene

NUM_VARIANTS = 100
HALF = BAR_THICKNESS / 2
RIM = 1e-3
"""Overlap, in pixels, that counts as touching."""

Uniform = Callable[[float, float], float]
"""Draws between two bounds."""


def level(colour: int, left: float, right: float, top: float) -> Body:
    """A lying bar whose upper side is at height `top`."""
    return bar_between(colour, (left, top - HALF), (right, top - HALF))


def floor(colour: int, left: float = 0.0, right: float = SIDE) -> Body:
    return level(colour, left, right, BAR_THICKNESS)


def post(colour: int, height: float, x: float, bottom: float) -> Body:
    """A bar that stands upright, `height` pixels tall."""
    return bar(colour, height / SIDE, x, bottom + height / 2, 90)


def in_fork(colour: int, size: float, sticks: Body, scale: float) -> Body:
    """A ball resting in the upper fork of standing sticks of that scale."""
    resting = ball(colour, size, sticks.x, 0)
    length, lean, reach = SIDE * scale / 2, math.radians(90 - 77.5), resting.radius + HALF
    if reach <= length * math.tan(lean):
        above = reach / math.sin(lean)
    else:  # too large to lie between the sticks: it lies on their tips
        x = length * math.sin(lean) - HALF * math.cos(lean)
        above = length * math.cos(lean) + HALF * math.sin(lean) + math.sqrt(resting.radius**2 - x**2)
    return resting.moved(dy=sticks.y + above - resting.y)


def two_balls_in_the_air(u: Uniform) -> list[Body]:
    x = u(30, 60)
    return [ball(GREEN, u(0.1, 0.2), x, u(20, 150)), ball(BLUE, u(0.1, 0.2), x + u(55, 80), u(20, 150))]


def ball_on_a_platform(u: Uniform) -> list[Body]:
    x, half, top = u(50, 200), u(16, 28), u(25, 110)
    return [floor(PURPLE), level(BLACK, x - half, x + half, top), ball(GREEN, u(0.14, 0.24), x, top)]


def high_and_low_platform(u: Uniform) -> list[Body]:
    low, rise, edge, width = u(10, 40), u(50, 80), u(70, 110), u(60, 90)
    rider, partner = ball(GREEN, u(0.12, 0.18), edge, low + rise), ball(BLUE, u(0.1, 0.16), edge + width, low)
    return [
        level(BLACK, edge - 50, edge, low + rise),
        level(BLACK, edge - 10, edge + width, low),
        post(BLACK, 14, edge - 10 - HALF, low - BAR_THICKNESS),
        post(BLACK, 14, edge + width + HALF, low - BAR_THICKNESS),
        rider.moved(-u(6, 20)),
        partner.moved(-partner.radius - u(2, 10)),
    ]


def ledge_and_ramp(u: Uniform) -> list[Body]:
    high, edge, foot = u(60, 120), u(60, 90), u(170, 215)
    return [
        level(BLACK, 0, edge, high),
        bar_between(BLACK, (edge, high - HALF), (foot, HALF)),
        post(PURPLE, u(30, 50), foot + 15, 0),
        ball(GREEN, u(0.12, 0.2), edge - u(5, 20), high),
    ]


def jar_below_a_platform(u: Uniform) -> list[Body]:
    edge, high = u(80, 110), u(80, 130)
    return [
        level(BLACK, edge - 60, edge, high),
        ball(GREEN, u(0.1, 0.16), edge - u(4, 18), high),
        jar(BLUE, u(0.26, 0.36), edge + u(40, 50), 0),
    ]


def ball_on_standing_sticks(u: Uniform) -> list[Body]:
    x, scale = u(60, 196), u(0.25, 0.45)
    sticks = standing_sticks(GRAY, scale, x, BAR_THICKNESS)
    return [floor(PURPLE), sticks, in_fork(GREEN, u(0.08, 0.14), sticks, scale)]


def falling_post(u: Uniform) -> list[Body]:
    x, height = u(60, 110), u(60, 100)
    return [post(GREEN, height, x, 0), post(PURPLE, u(20, 50), x + height * u(0.5, 0.9), 0)]


def seesaw(u: Uniform) -> list[Body]:
    """A plank over a pivot; its loaded end lies on a prop, its other end is free to go down."""
    x, half, high = u(90, 120), u(50, 65), u(30, 60)
    return [
        post(BLACK, high, x + 8, 0),
        post(BLACK, high, x - half + 6, 0),
        level(GRAY, x - half, x + half, high + BAR_THICKNESS),
        ball(GREEN, u(0.12, 0.17), x - u(25, 38), high + BAR_THICKNESS),
        floor(PURPLE, x + half, SIDE),
    ]


def gap_between_platforms(u: Uniform) -> list[Body]:
    high, edge, gap = u(40, 100), u(70, 110), u(45, 60)
    return [
        level(BLACK, 0, edge, high),
        level(BLACK, edge + gap, SIDE, high),
        post(BLACK, high - BAR_THICKNESS, edge - HALF, 0),
        post(BLACK, high - BAR_THICKNESS, edge + gap + HALF, 0),
        floor(PURPLE, edge, edge + gap),
        ball(GREEN, u(0.12, 0.16), edge - u(5, 15), high),
    ]


def tower(u: Uniform) -> list[Body]:
    x, width, height = u(70, 186), u(40, 60), BAR_THICKNESS
    bodies = [floor(PURPLE)]
    for _ in range(int(u(1, 4))):
        bodies += [post(GRAY, 20, x + side * (width / 2 - HALF), height) for side in (-1, 1)]
        height += 20 + BAR_THICKNESS
        bodies.append(level(GRAY, x - width / 2, x + width / 2, height))
    return [*bodies, ball(GREEN, u(0.08, 0.14), x, height)]


def dominoes(u: Uniform) -> list[Body]:
    high, left, pace = u(50, 100), u(10, 30), u(16, 24)
    row = [post(GRAY, 34, left + 12 + i * pace, high) for i in range(int(u(3, 6)))]
    last = ball(GREEN, u(0.06, 0.1), 0, high)
    x = row[-1].box[2] + last.radius + u(2, 8)
    return [level(BLACK, left, x + last.radius, high), *row, last.moved(x), floor(PURPLE, x + last.radius + 8, SIDE)]


def jar_on_a_pedestal(u: Uniform) -> list[Body]:
    x, high, half = u(60, 196), u(30, 80), u(9, 13)
    return [
        floor(PURPLE),
        level(BLACK, x - half, x + half, high),
        jar(GREEN, u(0.24, 0.36), x, high),
        ball(GRAY, u(0.08, 0.12), x, high + 6),
    ]


def valley(u: Uniform) -> list[Body]:
    bottom, high, edge = u(130, 170), u(50, 90), u(50, 70)
    return [
        level(BLACK, 0, edge, high + HALF),
        bar_between(BLACK, (edge, high), (bottom, HALF)),
        bar_between(BLACK, (bottom, HALF), (SIDE, high)),
        ball(BLUE, u(0.16, 0.22), bottom, 20),
        ball(GREEN, u(0.1, 0.16), edge - u(5, 15), high + HALF),
    ]


def bridge(u: Uniform) -> list[Body]:
    left, span, high = u(50, 150), u(36, 55), u(30, 80)
    return [
        floor(PURPLE),
        post(BLACK, high, left, BAR_THICKNESS),
        post(BLACK, high, left + span, BAR_THICKNESS),
        level(GRAY, left - 14, left + span + 14, high + 2 * BAR_THICKNESS),
        ball(GREEN, u(0.14, 0.2), left + span * u(0.1, 0.9), high + 2 * BAR_THICKNESS),
    ]


def rolling_past(u: Uniform) -> list[Body]:
    """The green ball rolls over the purple shelf and falls beyond it, unless something stops it."""
    high, edge, end = u(110, 150), u(80, 110), u(160, 190)
    return [
        bar_between(BLACK, (0, high), (edge, high - u(18, 30))),
        level(PURPLE, edge, end, u(50, 70)),
        ball(GREEN, u(0.08, 0.12), u(20, 40), high + 5),
    ]


def falling_past_a_shelf(u: Uniform) -> list[Body]:
    falling = ball(GREEN, u(0.12, 0.2), u(40, 90), u(110, 180))
    return [level(PURPLE, falling.box[2] + u(2, 8), SIDE, u(25, 60)), falling]


def balanced_bar(u: Uniform) -> list[Body]:
    x, high, half, reach = u(80, 176), u(40, 80), u(44, 64), u(24, 34)
    return [
        floor(PURPLE, 0, SIDE),
        post(BLACK, high - BAR_THICKNESS, x - reach, BAR_THICKNESS),
        post(BLACK, high - BAR_THICKNESS, x + reach, BAR_THICKNESS),
        level(GREEN, x - half, x + half, high + BAR_THICKNESS),
    ]


def ball_between_posts(u: Uniform) -> list[Body]:
    x, high, tall = u(70, 186), u(30, 90), u(16, 26)
    held = ball(GREEN, u(0.14, 0.2), x, high)
    beside = held.radius + HALF + u(1, 5)
    return [
        floor(PURPLE),
        level(BLACK, x - beside - HALF, x + beside + HALF, high),
        held,
        *(post(GRAY, tall, x + side * beside, high) for side in (-1, 1)),
    ]


def jar_above_a_ball(u: Uniform) -> list[Body]:
    x, high, half = u(70, 110), u(38, 52), u(6, 9)
    partner = ball(GREEN, u(0.16, 0.22), x + u(46, 57), 0)
    return [
        level(BLACK, x - half, x + half, high),
        jar(BLUE, u(0.26, 0.36), x, high),
        partner,
        post(BLACK, u(20, 40), partner.box[2] + u(5, 15), 0),
    ]


def sticks_beside_a_wall(u: Uniform) -> list[Body]:
    scale, x = u(0.3, 0.45), u(70, 120)
    return [standing_sticks(GREEN, scale, x, 0), post(PURPLE, u(30, 70), x + SIDE * scale * u(0.5, 0.8), 0)]


def stairs(u: Uniform) -> list[Body]:
    rise, run, number, top = u(16, 26), u(28, 38), 3, u(50, 70)
    steps = [level(BLACK, 0, top, BAR_THICKNESS + number * rise)]
    for i in range(1, number):
        steps.append(level(BLACK, top + (i - 1) * run, top + i * run, BAR_THICKNESS + (number - i) * rise))
    faces = [post(BLACK, rise, step.box[2] - HALF, step.box[1] - rise) for step in steps]
    rider = ball(GREEN, u(0.14, 0.2), top - u(2, 12), steps[0].box[3])
    return [*steps, *faces, floor(PURPLE, steps[-1].box[2], SIDE), rider]


def ball_on_sticks_beside_a_jar(u: Uniform) -> list[Body]:
    x, scale = u(60, 110), u(0.28, 0.38)
    sticks, beside = standing_sticks(GRAY, scale, x, 0), jar(BLUE, u(0.24, 0.28), 0, 0)
    rider = in_fork(GREEN, u(0.09, 0.15), sticks, scale)
    return [sticks, rider, beside.moved(sticks.box[2] + u(15, 35) - beside.box[0])]


def heap_of_balls(u: Uniform) -> list[Body]:
    x, high, scale = u(80, 176), u(25, 60), u(0.1, 0.14)
    radius = ball(GRAY, scale, 0, 0).radius
    return [
        floor(PURPLE),
        level(BLACK, x - 2 * radius - 1, x + 2 * radius + 1, high),
        *(post(BLACK, 8, x + side * (2 * radius + HALF + 1), high - BAR_THICKNESS) for side in (-1, 1)),
        *(ball(GRAY, scale, x + side * (radius + 0.2), high) for side in (-1, 1)),
        ball(GREEN, scale, x, high + math.sqrt(3) * radius),
    ]


def runway(u: Uniform) -> list[Body]:
    """What rolls down the slope at the left knocks the green ball from its platform."""
    high, foot, half = u(30, 80), u(40, 60), u(20, 30)
    x = foot + u(20, 40)
    return [
        bar_between(BLACK, (0, high + u(10, 25)), (foot, high - HALF)),
        level(BLACK, foot, x + half, high),
        floor(PURPLE, x + half, SIDE),
        ball(GREEN, u(0.14, 0.2), x, high),
    ]


def bar_across_two_posts(u: Uniform) -> list[Body]:
    x, half, height, reach = u(80, 176), u(36, 55), u(40, 80), u(14, 24)
    return [
        floor(PURPLE),
        post(GRAY, height, x - reach, BAR_THICKNESS),
        post(GRAY, height, x + reach, BAR_THICKNESS),
        level(GREEN, x - half, x + half, height + 2 * BAR_THICKNESS),
    ]


TEMPLATES: tuple[Callable[[Uniform], list[Body]], ...] = (
    two_balls_in_the_air,
    ball_on_a_platform,
    high_and_low_platform,
    ledge_and_ramp,
    jar_below_a_platform,
    ball_on_standing_sticks,
    falling_post,
    seesaw,
    gap_between_platforms,
    tower,
    dominoes,
    jar_on_a_pedestal,
    valley,
    bridge,
    rolling_past,
    falling_past_a_shelf,
    balanced_bar,
    ball_between_posts,
    jar_above_a_ball,
    sticks_beside_a_wall,
    stairs,
    ball_on_sticks_beside_a_jar,
    heap_of_balls,
    runway,
    bar_across_two_posts,
)


TASK_IDS = tuple(f"{t:05d}:{v:03d}" for t in range(len(TEMPLATES)) for v in range(NUM_VARIANTS))
"""All ids `TTTTT:III`, sorted."""


@lru_cache(maxsize=len(TASK_IDS))
def scene(task_id: str) -> Scene:
    """The puzzle of an id: its template drawn with a generator seeded by the id. ValueError if there is none."""
    if task_id not in TASK_IDS:
        raise ValueError(f"no task {task_id!r}: they are {TASK_IDS[0]} to {TASK_IDS[-1]}, {NUM_VARIANTS} to a template")
    template, variant = (int(number) for number in task_id.split(":"))
    rng = np.random.default_rng((template, variant))
    while True:
        bodies = TEMPLATES[template](lambda low, high: low + (high - low) * rng.random())
        if rng.random() < 0.5:
            bodies = [body.mirrored() for body in bodies]
        if _can_stand(bodies):
            return Scene(task_id, tuple(bodies))


def _can_stand(bodies: list[Body]) -> bool:
    """Whether no moving body overlaps another body or the rim of the canvas."""
    pairs = (pair for pair in combinations(bodies, 2) if any(body.is_dynamic for body in pair))
    boxes = np.array([body.box for body in bodies if body.is_dynamic])
    return bool((boxes >= -RIM).all() and (boxes <= SIDE + RIM).all()) and not any(
        overlap(*pair, RIM) for pair in pairs
    )
