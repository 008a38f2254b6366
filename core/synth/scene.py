"""What stands where: the description of a scene that physics moves and the renderer draws.

Lengths are in the unit of the data set that is imitated, z is up, angles are in radians, colours linear RGB in 0..1.
Rotations are unit quaternions (w, x, y, z).
"""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Material:
    """How a surface looks: one colour, or a texture in its place; smooth metal or a rougher dielectric."""

    colour: tuple[float, float, float] = (0.5, 0.5, 0.5)
    texture: Float[np.ndarray, "H W 3"] | None = None
    texture_scale: float = 1.0
    """How often the texture repeats over a surface."""
    roughness: float = 0.5
    metallic: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class SceneObject:
    """A body: its shape fills the cube of half side `size` before `rotation` and `position` apply."""

    shape: str
    size: float
    position: tuple[float, float, float]
    rotation: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    material: Material = field(default_factory=Material)
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors on the half sides along the body's own axes."""

    @property
    def half_sides(self) -> Float[np.ndarray, "3"]:
        return self.size * np.array(self.stretch)

    @property
    def oval(self) -> bool:
        """Whether its cross-section is not round."""
        return self.stretch[0] != self.stretch[1]


@dataclass(frozen=True)
class Camera:
    """A pinhole at `position` that looks at `target`; the picture spans `fov` degrees along its wider side."""

    position: tuple[float, float, float]
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    fov: float = 49.13  # Blender's 35 mm on a 32 mm sensor
    width: int = 320
    height: int = 240

    def zoomed(self, times: float) -> "Camera":
        """What lies in the middle, `times` as large."""
        return replace(self, fov=float(2 * np.degrees(np.arctan(np.tan(np.radians(self.fov) / 2) / times))))

    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Rows right, down and forward in the world."""
        forward = np.subtract(self.target, self.position)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right = right / np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    def project(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Column, row (pixel centres at whole numbers plus one half) and distance along the view axis of points."""
        seen = (np.asarray(points, float) - self.position) @ self.axes().T
        focal = max(self.width, self.height) / 2 / np.tan(np.radians(self.fov) / 2)
        return np.stack(
            [
                self.width / 2 + focal * seen[:, 0] / seen[:, 2],
                self.height / 2 + focal * seen[:, 1] / seen[:, 2],
                seen[:, 2],
            ],
            axis=1,
        )


@dataclass(frozen=True)
class Light:
    """A rectangular lamp at `position` that looks at the origin; `power` is its radiance times its area."""

    position: tuple[float, float, float]
    size: float
    power: float


@dataclass(frozen=True)
class Scene:
    """Bodies on a ground, lamps above it, one camera. Object i of the list has instance index i + 1."""

    objects: tuple[SceneObject, ...]
    camera: Camera
    lights: tuple[Light, ...]
    ground: Material | None = field(default_factory=Material)
    """None: objects float before the sky."""
    ground_relief: Float[np.ndarray, "H W"] | None = None
    """Heights of the ground, over the square of half side `ground_size`."""
    ground_size: float = 60.0
    sky: float | tuple[float, float, float] = 0.35
    """Radiance from everywhere."""

    def recoloured(self, index: int, colour: tuple[float, float, float]) -> "Scene":
        """The scene with one object in another colour."""
        thing = self.objects[index]
        changed = replace(thing, material=replace(thing.material, colour=colour, texture=None))
        return replace(self, objects=(*self.objects[:index], changed, *self.objects[index + 1 :]))

    def moved(
        self, positions: Float[np.ndarray, "N 3"], rotations: Float[np.ndarray, "N 4"], camera: Camera | None = None
    ) -> "Scene":
        """The scene with its objects elsewhere, seen by `camera` if given."""
        objects = tuple(
            replace(thing, position=tuple(map(float, position)), rotation=tuple(map(float, rotation)))
            for thing, position, rotation in zip(self.objects, positions, rotations)
        )
        return replace(self, objects=objects, camera=camera or self.camera)


def rotation_about_z(angle: float) -> tuple[float, float, float, float]:
    return float(np.cos(angle / 2)), 0.0, 0.0, float(np.sin(angle / 2))


def rotation_matrix(rotation: tuple[float, float, float, float]) -> Float[np.ndarray, "3 3"]:
    """Of a unit quaternion."""
    w, x, y, z = rotation
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
