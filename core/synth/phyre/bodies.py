"""Rigid bodies of a two-dimensional puzzle world, with the shapes, sizes and colours of PHYRE (Bakhtin et al. 2019).

Lengths are pixels of a canvas of 256 x 256, x to the right and y up; the world's metre is 6 pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64

SIDE = 256
BAR_THICKNESS = 5.12
WALL_THICKNESS = 5.0

BACKGROUND, RED, GREEN, BLUE, PURPLE, GRAY, BLACK = range(7)
"""Codes in a picture. Red: the user's ball; green: goal object; blue, purple: its partner; gray, black: any other.

Purple and black bodies stand still for ever, the others move.
"""
STATIC_COLOURS = (PURPLE, BLACK)

Polygon = Float64[np.ndarray, "V 2"]


@dataclass(frozen=True, eq=False)
class Body:
    """A disc (`radius`) or a union of convex polygons, turned by `angle` (radians) about its centre of mass (x, y).

    `polygons` are corners about the centre of mass, anticlockwise.
    """

    colour: int
    x: float
    y: float
    angle: float = 0.0
    radius: float = 0.0
    polygons: tuple[Polygon, ...] = ()

    @property
    def is_dynamic(self) -> bool:
        return self.colour not in STATIC_COLOURS

    @cached_property
    def outlines(self) -> list[Polygon]:
        """The polygons where they lie on the canvas."""
        return [place(polygon, self.x, self.y, self.angle) for polygon in self.polygons]

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top."""
        if self.radius:
            return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius
        corners = np.concatenate(self.outlines)
        return (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())

    def moved(self, dx: float = 0.0, dy: float = 0.0) -> "Body":
        return replace(self, x=self.x + dx, y=self.y + dy)

    def mirrored(self) -> "Body":
        """The same body on the other side of the canvas."""
        polygons = tuple(polygon[::-1] * (-1, 1) for polygon in self.polygons)
        return replace(self, x=SIDE - self.x, angle=-self.angle, polygons=polygons)

    def standing_at(self, x: float, bottom: float) -> "Body":
        """The same body with the middle of its box above `x` and its lowest point at height `bottom`."""
        left, low, right, _ = self.box
        return self.moved(x - (left + right) / 2, bottom - low)


def place(polygon: Polygon, x: float, y: float, angle: float) -> Polygon:
    cos, sin = math.cos(angle), math.sin(angle)
    return polygon @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


def ball(colour: int, scale: float, x: float, bottom: float) -> Body:
    """A ball of radius int(128 scale) + 0.5 whose lowest point is at height `bottom`."""
    radius = int(SIDE / 2 * scale) + 0.5
    return Body(colour, x, bottom + radius, radius=radius)


def bar(colour: int, scale: float, x: float, y: float, degrees: float = 0.0) -> Body:
    """A bar of length 256 scale with its centre at (x, y), turned anticlockwise."""
    return Body(colour, x, y, math.radians(degrees), polygons=(_rectangle(SIDE * scale, BAR_THICKNESS),))


def bar_between(colour: int, start: tuple[float, float], end: tuple[float, float]) -> Body:
    """A bar whose middle line runs from one point to the other."""
    (x1, y1), (x2, y2) = start, end
    degrees = math.degrees(math.atan2(y2 - y1, x2 - x1))
    return bar(colour, math.dist(start, end) / SIDE, (x1 + x2) / 2, (y1 + y2) / 2, degrees)


def jar(colour: int, scale: float, x: float, bottom: float, degrees: float = 0.0) -> Body:
    """An open jar of height 256 scale, height/1.2 wide above and 0.8 of that below, of base and two leaning walls."""
    height = SIDE * scale
    above = height / 1.2 / 2
    below = 0.8 * above
    wall = math.log(height) / math.log(0.3 * SIDE) * BAR_THICKNESS
    lean = (above - below) / height * wall  # the base is as thick as the walls: its top is that much wider
    base = np.array([(-below, 0), (below, 0), (below + lean, wall), (-below - lean, wall)])
    right = np.array([(below + lean - wall, wall), (below + lean, wall), (above, height), (above - wall, height)])
    left = right[::-1] * (-1, 1)
    return _about_centre(colour, (base, right, left), math.radians(degrees)).standing_at(x, bottom)


def standing_sticks(colour: int, scale: float, x: float, bottom: float) -> Body:
    """Two bars of length 256 scale, crossed at +-77.5 degrees."""
    stick = _rectangle(SIDE * scale, BAR_THICKNESS)
    leaning = tuple(place(stick, 0.0, 0.0, math.radians(degrees)) for degrees in (77.5, -77.5))
    return _about_centre(colour, leaning, 0.0).standing_at(x, bottom)


def walls() -> list[Body]:
    """Four black boxes just outside the canvas."""
    long, half, middle = SIDE + 2 * WALL_THICKNESS, WALL_THICKNESS / 2, SIDE / 2
    lying, upright = (_rectangle(long, WALL_THICKNESS),), (_rectangle(WALL_THICKNESS, long),)
    return [
        Body(BLACK, -half, middle, polygons=upright),
        Body(BLACK, SIDE + half, middle, polygons=upright),
        Body(BLACK, middle, -half, polygons=lying),
        Body(BLACK, middle, SIDE + half, polygons=lying),
    ]


def _rectangle(width: float, height: float) -> Polygon:
    return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width / 2, height / 2)


def _about_centre(colour: int, polygons: Sequence[Polygon], angle: float) -> Body:
    areas, centres = zip(*(_area_and_centre(polygon) for polygon in polygons))
    middle = np.average(centres, axis=0, weights=areas)
    return Body(colour, 0.0, 0.0, angle, polygons=tuple(polygon - middle for polygon in polygons))


def _area_and_centre(polygon: Polygon) -> tuple[float, Float64[np.ndarray, "2"]]:
    """Of a polygon that does not cross itself (shoelace formula)."""
    following = np.roll(polygon, -1, axis=0)
    cross = polygon[:, 0] * following[:, 1] - polygon[:, 1] * following[:, 0]
    area = cross.sum() / 2
    return float(area), ((polygon + following) * cross[:, None]).sum(axis=0) / (6 * area)


def gap_to_discs(
    body: Body, centres: Float64[np.ndarray, "N 2"], radii: Float64[np.ndarray, "N"]
) -> Float64[np.ndarray, "N"]:
    """How far discs are from a body; negative where they overlap, -radius where a disc's centre is in a polygon."""
    if body.radius:
        return np.hypot(*(centres - (body.x, body.y)).T) - body.radius - radii
    return np.min([_distance(polygon, centres) for polygon in body.outlines], axis=0) - radii


def _distance(polygon: Polygon, points: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N"]:
    """Distance of points to a convex polygon, 0 inside."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    from_corner = points[:, None] - polygon
    along = np.clip((from_corner * edges).sum(axis=2) / (edges**2).sum(axis=1), 0, 1)
    nearest = np.linalg.norm(from_corner - along[..., None] * edges, axis=2).min(axis=1)
    is_inside: Bool[np.ndarray, "N"] = (edges[:, 0] * from_corner[..., 1] >= edges[:, 1] * from_corner[..., 0]).all(1)
    return np.where(is_inside, 0.0, nearest)


def overlap(first: Body, second: Body, tolerance: float) -> bool:
    """Whether two bodies share more than a rim of `tolerance` pixels."""
    if second.radius:
        first, second = second, first
    if first.radius:
        return bool(gap_to_discs(second, np.array([(first.x, first.y)]), np.array([first.radius]))[0] < -tolerance)
    return any(_depth(one, other) > tolerance for one in first.outlines for other in second.outlines)


def _depth(one: Polygon, other: Polygon) -> float:
    """How deep convex polygons lie in each other, least over the directions of their edges; 0 or less if apart."""
    edges = np.concatenate([np.roll(polygon, -1, axis=0) - polygon for polygon in (one, other)])
    normals = np.stack([edges[:, 1], -edges[:, 0]]) / np.linalg.norm(edges, axis=1)
    a, b = one @ normals, other @ normals
    return float((np.minimum(a.max(0), b.max(0)) - np.maximum(a.min(0), b.min(0))).min())
