"""Pictures, instance indices and depths of scenes by light transport (Mitsuba 3, Jakob et al. 2022)."""

from dataclasses import dataclass
from typing import Any

import drjit
import mitsuba as mi
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from core.synth.scene import Camera, Material, Scene, SceneObject, rotation_matrix
from core.synth.shapes import Mesh, mesh_of, relief

# The variants that compile for vectors need a matching LLVM on the machine; this one runs anywhere.
mi.set_variant("scalar_rgb")
drjit.set_thread_count(1)  # data sets are made by several processes

REACH = 2  # pixels that the smoothing looks to each side
NORMAL_SCALE, ALBEDO_SCALE, CONTRAST_SCALE = 0.05, 0.001, 0.15
OUTLIER = 1.6  # times the third brightest neighbour of the same object


@dataclass(frozen=True)
class Rendering:
    """One picture of a scene.

    image: sRGB. index: 0 for ground and sky, i + 1 for object i, exact at pixel centres. depth: along the view axis,
    of pixel centres, infinite for the sky.
    """

    image: UInt8[np.ndarray, "H W 3"]
    index: UInt8[np.ndarray, "H W"]
    depth: Float[np.ndarray, "H W"]


def render(scene: Scene, samples: int = 16, bounces: int = 3, seed: int = 0) -> Rendering:
    """Draw a scene with `samples` light paths per pixel of up to `bounces` surfaces. The same on every machine."""
    world, owner_of = _load(scene)
    seen = _look(world, owner_of, scene.camera, "albedo:albedo,normal:sh_normal")
    paths = {"type": "path", "max_depth": bounces}
    sensor = _sensor(scene.camera, {"type": "multijitter", "sample_count": samples})
    radiance = np.array(mi.render(world, integrator=mi.load_dict(paths), sensor=sensor, spp=samples, seed=seed))
    radiance = smoothed(
        without_outliers(radiance, seen.index), seen.surface[..., :3], seen.surface[..., 3:], seen.index
    )
    return Rendering(_to_srgb(radiance), seen.index, seen.depth)


def index_of(scene: Scene) -> UInt8[np.ndarray, "H W"]:
    """The instance index of every pixel, as `render` gives it, in a small part of the time."""
    world, owner_of = _load(scene)
    return _look(world, owner_of, scene.camera).index


def _load(scene: Scene) -> tuple[Any, UInt8[np.ndarray, "S"]]:
    """The scene for the renderer, and the instance index of each of its shapes (shape 0 stands for nothing)."""
    parts, owners = _parts(scene)
    # Without optimisation, which would merge shapes and lose their names.
    world = mi.load_dict({"type": "scene", **parts}, parallel=False, optimize=False)
    return world, np.array([0, *(owners[shape.id()] for shape in world.shapes())], np.uint8)


@dataclass(frozen=True)
class _Seen:
    """What lies behind the centres of pixels: instance index, depth, and further channels of the surface."""

    index: UInt8[np.ndarray, "H W"]
    depth: Float[np.ndarray, "H W"]
    surface: Float[np.ndarray, "H W C"]


def _look(world: Any, owner_of: UInt8[np.ndarray, "S"], camera: Camera, surface: str = "") -> _Seen:
    """One ray through the centre of each pixel; `surface` names further channels (Mitsuba's `aov`)."""
    aovs = ",".join(filter(None, ("position:position,shape:shape_index", surface)))
    sensor = _sensor(camera, {"type": "stratified", "sample_count": 1, "jitter": False})
    channels = np.array(mi.render(world, integrator=mi.load_dict({"type": "aov", "aovs": aovs}), sensor=sensor, spp=1))
    depth = (channels[..., :3] - camera.position) @ camera.axes()[2]
    hit = channels[..., 3] > 0
    return _Seen(
        owner_of[channels[..., 3].astype(int)],
        np.where(hit, depth, np.inf).astype(np.float32),
        channels[..., 4:],
    )


def _sensor(camera: Camera, sampler: dict[str, Any]) -> Any:
    return mi.load_dict(
        {
            "type": "perspective",
            "fov": camera.fov,
            "fov_axis": "larger",
            "to_world": mi.ScalarTransform4f().look_at(camera.position, camera.target, [0, 0, 1]),
            "film": {
                "type": "hdrfilm",
                "width": camera.width,
                "height": camera.height,
                "pixel_format": "rgb",
                "rfilter": {"type": "box"},
            },
            "sampler": sampler,
        }
    )


def _parts(scene: Scene) -> tuple[dict[str, Any], dict[str, int]]:
    """What Mitsuba loads, and which instance index each of its shapes belongs to."""
    parts: dict[str, Any] = {"sky": {"type": "constant", "radiance": _rgb(scene.sky)}}
    owners: dict[str, int] = {}
    for number, light in enumerate(scene.lights):
        towards_origin = mi.ScalarTransform4f().look_at(light.position, [0, 0, 0], _any_up(light.position))
        parts[f"light_{number}"] = {
            "type": "rectangle",
            "to_world": towards_origin @ mi.ScalarTransform4f().scale(light.size / 2),
            "emitter": {"type": "area", "radiance": _rgb(light.power / light.size**2)},
        }
        owners[f"light_{number}"] = 0
    if scene.ground:
        parts["ground"] = _ground(scene)
        owners["ground"] = 0
    for number, thing in enumerate(scene.objects):
        for name, part in _surfaces(thing).items():
            parts[f"object_{number}_{name}"] = part
            owners[f"object_{number}_{name}"] = number + 1
    return parts, owners


def _any_up(direction: tuple[float, float, float]) -> list[float]:
    return [0, 1, 0] if abs(direction[0]) + abs(direction[1]) < 1e-6 else [0, 0, 1]


def _ground(scene: Scene) -> Any:
    surface = _surface(scene.ground)
    if scene.ground_relief is None:
        to_world = mi.ScalarTransform4f().scale([scene.ground_size, scene.ground_size, 1])
        return {"type": "rectangle", "to_world": to_world, "bsdf": surface}
    return _mesh(relief(scene.ground_relief, scene.ground_size), surface, np.eye(4))


def _surfaces(thing: SceneObject) -> dict[str, Any]:
    """The shapes that make up a body."""
    placed = np.eye(4)
    placed[:3, :3] = rotation_matrix(thing.rotation) * thing.half_sides
    placed[:3, 3] = thing.position
    surface = _surface(thing.material)
    if mesh := mesh_of(thing.shape, thing.oval):
        return {"mesh": _mesh(mesh, surface, placed)}
    to_world = mi.ScalarTransform4f(placed.tolist())
    if thing.shape != "cylinder":
        return {thing.shape: {"type": thing.shape, "to_world": to_world, "bsdf": surface}}
    lid = mi.ScalarTransform4f().translate([0, 0, 1])
    foot = mi.ScalarTransform4f().rotate([1, 0, 0], 180) @ lid
    return {
        "side": {"type": "cylinder", "p0": [0, 0, -1], "p1": [0, 0, 1], "to_world": to_world, "bsdf": surface},
        "lid": {"type": "disk", "to_world": to_world @ lid, "bsdf": surface},
        "foot": {"type": "disk", "to_world": to_world @ foot, "bsdf": surface},
    }


def _mesh(mesh: Mesh, surface: dict[str, Any], placed: Float[np.ndarray, "4 4"]) -> Any:
    vertices, triangles, coordinates = mesh
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(surface)
    loaded = mi.Mesh("mesh", len(vertices), len(triangles), has_vertex_texcoords=True, props=properties)
    parameters = mi.traverse(loaded)
    parameters["vertex_positions"] = (vertices @ placed[:3, :3].T + placed[:3, 3]).astype(np.float32).ravel()
    parameters["faces"] = triangles.astype(np.uint32).ravel()
    parameters["vertex_texcoords"] = coordinates.astype(np.float32).ravel()
    parameters.update()
    return loaded


def _surface(material: Material) -> dict[str, Any]:
    colour = _rgb(material.colour)
    if material.texture is not None:
        bitmap = mi.Bitmap(np.array(material.texture, np.float32, order="C"))
        scale = mi.ScalarTransform3f().scale([material.texture_scale] * 2)
        colour = {"type": "bitmap", "bitmap": bitmap, "raw": True, "to_uv": scale}
    return {
        "type": "twosided",
        "bsdf": {
            "type": "principled",
            "base_color": colour,
            "roughness": material.roughness,
            "metallic": material.metallic,
        },
    }


def _rgb(value: float | tuple[float, float, float]) -> dict[str, Any]:
    return {"type": "rgb", "value": float(value) if np.isscalar(value) else list(map(float, value))}


def without_outliers(
    radiance: Float[np.ndarray, "H W 3"], index: UInt8[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W 3"]:
    """Pixels much brighter than their neighbours of the same object become as bright as the third brightest of these.

    Light that reaches a surface by way of a mirror is found by few paths, which then count for many.
    """
    brightness = radiance.sum(axis=2)
    padded = np.pad(brightness, 1, mode="edge")
    owner = np.pad(index.astype(int), 1, mode="constant", constant_values=-1)
    height, width = index.shape
    neighbours = []
    for row in range(3):
        for column in range(3):
            if (row, column) != (1, 1):
                window = np.s_[row : row + height, column : column + width]
                neighbours.append(np.where(owner[window] == index, padded[window], -np.inf))
    third = np.sort(np.stack(neighbours), axis=0)[-3]
    limit = np.where(third > 0, OUTLIER * third, np.inf)
    factor = np.where(brightness > limit, third / np.maximum(brightness, 1e-9), 1.0)
    return radiance * factor[..., None]


def smoothed(
    radiance: Float[np.ndarray, "H W 3"],
    albedo: Float[np.ndarray, "H W 3"],
    normal: Float[np.ndarray, "H W 3"],
    index: UInt8[np.ndarray, "H W"],
) -> Float[np.ndarray, "H W 3"]:
    """The picture with less noise: the mean over neighbours that show the same surface in the same light.

    A cross-bilateral filter (Eisemann and Durand 2004): pixels are alike if they are of the same object and colour,
    face the same way and are about as bright, which keeps edges, textures and shadows.
    """
    brightness = radiance.sum(axis=2)
    guide = _window_mean(brightness, index)
    total, weights = np.zeros_like(radiance), np.zeros_like(brightness)
    for row in range(-REACH, REACH + 1):
        for column in range(-REACH, REACH + 1):
            same = _shifted(index, row, column, 255) == index
            turned = ((_shifted(normal, row, column, 0.0) - normal) ** 2).sum(axis=2)
            recoloured = ((_shifted(albedo, row, column, 0.0) - albedo) ** 2).sum(axis=2)
            other = _shifted(guide, row, column, 0.0)
            contrast = (other - guide) / (other + guide + 1e-6)
            distance = turned / NORMAL_SCALE + recoloured / ALBEDO_SCALE + (contrast / CONTRAST_SCALE) ** 2
            weight = same * np.exp(-distance)
            total += weight[..., None] * _shifted(radiance, row, column, 0.0)
            weights += weight
    return total / weights[..., None]


def _window_mean(plane: Float[np.ndarray, "H W"], index: UInt8[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Mean over the 3x3 neighbours of the same object."""
    total, count = np.zeros_like(plane), np.zeros_like(plane)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            same = _shifted(index, row, column, 255) == index
            total += np.where(same, _shifted(plane, row, column, 0.0), 0)
            count += same
    return total / count


def _shifted(plane: Shaped[np.ndarray, "H W *C"], row: int, column: int, fill: float) -> Shaped[np.ndarray, "H W *C"]:
    """The plane whose pixel (i, j) is pixel (i + row, j + column) of `plane`, `fill` beyond its border."""
    height, width = plane.shape[:2]
    found = np.full_like(plane, fill)
    to_rows, to_columns = slice(max(-row, 0), height - max(row, 0)), slice(max(-column, 0), width - max(column, 0))
    of_rows, of_columns = slice(max(row, 0), height + min(row, 0)), slice(max(column, 0), width + min(column, 0))
    found[to_rows, to_columns] = plane[of_rows, of_columns]
    return found


def _to_srgb(radiance: Float[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    linear = radiance.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)
