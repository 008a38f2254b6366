"""Pictures of bodies as PHYRE draws them (Bakhtin et al. 2019): one colour code per pixel, row 0 at the bottom."""

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

from core.synth.phyre.bodies import SIDE, Body, Polygon


def rasterise(
    bodies: Iterable[Body], picture: UInt8[np.ndarray, "256 256"] | None = None
) -> UInt8[np.ndarray, "256 256"]:
    """Draw bodies in their order over a copy of `picture`, or over the background (code 0).

    A disc covers the pixels whose centre it contains. A convex polygon covers, in each row from round(lowest) to
    round(highest) - 1, the pixels round(left) to round(right) - 1 of the line through the middle of the row. Halves
    are rounded up.
    """
    picture = np.zeros((SIDE, SIDE), np.uint8) if picture is None else picture.copy()
    for body in bodies:
        if body.radius:
            _draw_disc(picture, body)
        for polygon in body.outlines:
            _draw_polygon(picture, polygon, body.colour)
    return picture


def _draw_disc(picture: UInt8[np.ndarray, "256 256"], disc: Body) -> None:
    left, bottom, right, top = disc.box
    columns = np.arange(max(math.floor(left), 0), min(math.ceil(right) + 1, SIDE))
    rows = np.arange(max(math.floor(bottom), 0), min(math.ceil(top) + 1, SIDE))
    if len(columns) and len(rows):
        inside = (columns - disc.x + 0.5) ** 2 + (rows[:, None] - disc.y + 0.5) ** 2 <= disc.radius**2
        picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][inside] = disc.colour


def _draw_polygon(picture: UInt8[np.ndarray, "256 256"], polygon: Polygon, colour: int) -> None:
    first, last = (math.floor(y + 0.5) for y in (polygon[:, 1].min(), polygon[:, 1].max()))
    rows = np.arange(max(first, 0), min(last, SIDE))
    if not len(rows):
        return
    (x1, y1), (x2, y2) = polygon.T, np.roll(polygon, -1, axis=0).T
    middle = rows[:, None] + 0.5
    crosses = (np.minimum(y1, y2) <= middle) & (middle <= np.maximum(y1, y2)) & (y1 != y2)
    crossings = x1 + (middle - y1) * (x2 - x1) / np.where(y1 == y2, 1.0, y2 - y1)
    left = np.floor(np.where(crosses, crossings, np.inf).min(axis=1) + 0.5)[:, None]
    right = np.floor(np.where(crosses, crossings, -np.inf).max(axis=1) + 0.5)[:, None]
    columns = np.arange(max(int(left.min()), 0), min(int(right.max()), SIDE))
    if len(columns):
        part = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part[(columns >= left) & (columns < right)] = colour
