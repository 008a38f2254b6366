"""The surfaces of scene objects that Mitsuba does not have: triangles with smooth normals left to the renderer."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

Mesh = tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"], Float[np.ndarray, "V 2"]]
"""Vertices within the cube of half side 1, triangles, texture coordinates."""

SUPERQUADRICS = {
    # Exponents from pole to pole and around (Barr 1981): 1 is round, near 0 square, 2 an edge.
    "smooth_cube": (0.25, 0.25),
    "barrel": (0.3, 1.0),
    "pillow": (1.0, 0.3),
    "octahedron": (2.0, 2.0),
    "double_cone": (2.0, 1.0),
    "star": (1.0, 2.8),
}


def superquadric(pole: float, around: float, rows: int = 25, columns: int = 49) -> Mesh:
    """The superellipsoid of exponents `pole` and `around` (Barr 1981), its axis along z."""
    latitude, longitude = np.linspace(-np.pi / 2, np.pi / 2, rows), np.linspace(-np.pi, np.pi, columns)
    waist = _power(np.cos(latitude), pole)[:, None]
    surface = np.stack(
        [
            waist * _power(np.cos(longitude), around),
            waist * _power(np.sin(longitude), around),
            np.broadcast_to(_power(np.sin(latitude), pole)[:, None], (rows, columns)),
        ],
        axis=-1,
    )
    return _grid(surface)


def _power(base: Float[np.ndarray, "*S"], exponent: float) -> Float[np.ndarray, "*S"]:
    return np.sign(base) * np.abs(base) ** exponent


def torus(thickness: float = 0.35, rows: int = 25, columns: int = 49) -> Mesh:
    """A ring around z, its tube of radius `thickness`."""
    tube, ring = np.linspace(-np.pi, np.pi, rows)[:, None], np.linspace(-np.pi, np.pi, columns)
    radius = 1 - thickness + thickness * np.cos(tube)
    height = np.broadcast_to(thickness * np.sin(tube), (rows, columns))
    return _grid(np.stack([radius * np.cos(ring), radius * np.sin(ring), height], axis=-1))


def cone(columns: int = 49) -> Mesh:
    """Its base at z = -1, its tip at z = 1."""
    ring = np.linspace(-np.pi, np.pi, columns)
    circle = np.stack([np.cos(ring), np.sin(ring), np.zeros(columns)], axis=-1)
    low, high = np.array([0, 0, -1.0]), np.array([0, 0, 1.0])
    # The rim stands twice, so that its normals are not averaged over side and base.
    return _grid(np.stack([np.broadcast_to(low, circle.shape), circle + low, circle + low, high + 0 * circle]))


def tube(columns: int = 49) -> Mesh:
    """A closed cylinder along z, for where it is stretched to an oval."""
    ring = np.linspace(-np.pi, np.pi, columns)
    circle = np.stack([np.cos(ring), np.sin(ring), np.zeros(columns)], axis=-1)
    low, high = np.array([0, 0, -1.0]), np.array([0, 0, 1.0])
    rows = [low + 0 * circle, circle + low, circle + low, circle + high, circle + high, high + 0 * circle]
    return _grid(np.stack(rows))


def relief(heights: Float[np.ndarray, "H W"], half_side: float) -> Mesh:
    """A square ground of that half side with `heights` over it."""
    rows, columns = heights.shape
    y, x = np.meshgrid(
        np.linspace(-half_side, half_side, rows), np.linspace(-half_side, half_side, columns), indexing="ij"
    )
    return _grid(np.stack([x, y, heights], axis=-1))


def _grid(surface: Float[np.ndarray, "R C 3"]) -> Mesh:
    """Two triangles per cell of a grid of points, seen from outside where columns run anticlockwise around rows."""
    rows, columns = surface.shape[:2]
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    triangles = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + columns + 1], axis=1),
            np.stack([corner, corner + columns + 1, corner + columns], axis=1),
        ]
    )
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    return surface.reshape(-1, 3), triangles, np.stack([u, v], axis=-1).reshape(-1, 2)


@lru_cache
def mesh_of(shape: str, oval: bool = False) -> Mesh | None:
    """The mesh of a shape by name; None for those that need none (cube, sphere, cylinder unless `oval`)."""
    if shape in SUPERQUADRICS:
        return superquadric(*SUPERQUADRICS[shape])
    if shape == "cylinder":
        return tube() if oval else None
    return {"torus": torus, "cone": cone}[shape]() if shape in ("torus", "cone") else None


def resting_height(shape: str) -> float:
    """How high the centre of a shape of half side 1 is above the ground it stands on."""
    mesh = mesh_of(shape)
    return -float(mesh[0][:, 2].min()) if mesh else 1.0


EXACT = ("cube", "sphere", "cylinder")
SHAPES = (*EXACT, "torus", "cone", *SUPERQUADRICS)
