"""Cameras, their rays, and the sample that posed views become (Sajjadi et al. 2022, OSRT; as in stelzner/osrt).

A camera is one 3x4 matrix [M | c] in float64: it lies at c, and the ray through the point (x, y) of its picture goes
along M (x, y, 1). Coordinates count pixels: the centre of row i, column j is (j + 1/2, i + 1/2), and row 0 is the top.
World z points up. Matrices "world to camera" have the rows right, down, forward.

Samples travel as uint8 pictures, cameras and pixel numbers; `cast_rays` makes pictures and rays of float32 from them,
on the device.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, Integer
from torch import Tensor

from core.data.loader import Augment, Batch, BatchSource
from core.nn.noise import derive_seed

FOCAL_LENGTH, SENSOR_WIDTH = 0.035, 0.032

Cameras = Float64[Tensor, "*views 3 4"]


def look_at_axes(
    position: Float[Tensor, "*views 3"], target: Float[Tensor, "*views 3"]
) -> Float64[Tensor, "*views 3 3"]:
    """Rows right, down, forward of cameras at `position` that look at `target` and do not roll.

    Raises ValueError where the direction is undefined or straight along z.
    """
    forward = target.double() - position.double()
    forward = forward / forward.norm(dim=-1, keepdim=True)
    up = forward.new_tensor((0.0, 0.0, 1.0)).expand_as(forward)
    right = torch.linalg.cross(forward, up)
    right = right / right.norm(dim=-1, keepdim=True)
    down = torch.linalg.cross(forward, right)
    axes = torch.stack((right, down / down.norm(dim=-1, keepdim=True), forward), dim=-2)
    if not ((axes @ axes.mT - torch.eye(3, dtype=axes.dtype, device=axes.device)).abs() < 1e-7).all():
        raise ValueError(
            f"cameras at {position.tolist()} that look at {target.tolist()} have no horizontal axis: "
            "expected positions and targets that differ, and not only in z"
        )
    return axes


def look_at_cameras(
    position: Float[Tensor, "*views 3"],
    height: int,
    width: int,
    target: Float[Tensor, "*views 3"] | None = None,
    focal_length: float = FOCAL_LENGTH,
    sensor_width: float = SENSOR_WIDTH,
) -> Cameras:
    """Pinhole cameras that look at `target` (the origin unless given), with square pixels. ValueError as above."""
    right, down, forward = look_at_axes(position, torch.zeros_like(position) if target is None else target).unbind(-2)
    pixel = sensor_width / width
    corner = focal_length * forward - sensor_width / 2 * right - pixel * height / 2 * down
    return torch.stack((pixel * right, pixel * down, corner, position.double()), dim=-1)


def calibrated_cameras(
    intrinsics: Float[Tensor, "*views 3 3"], camera_to_world: Float[Tensor, "*views 3 4"]
) -> Cameras:
    """Cameras with intrinsic matrix K, which takes points before the camera to pixels, and a rigid camera to world."""
    rotation, position = camera_to_world.double().split((3, 1), dim=-1)
    return torch.cat((rotation @ torch.linalg.inv(intrinsics.double()), position), dim=-1)


def strided_cameras(cameras: Cameras, stride: int) -> Cameras:
    """Cameras of the pictures that keep every `stride`-th row and column, from `stride` // 2 on."""
    offset = stride // 2 + (1 - stride) / 2
    onto_all = cameras.new_tensor([[stride, 0, offset], [0, stride, offset], [0, 0, 1]])
    return torch.cat((cameras[..., :3] @ onto_all, cameras[..., 3:]), dim=-1)


def pixel_rays(cameras: Cameras, height: int, width: int) -> Float32[Tensor, "*views {height} {width} 3"]:
    """Unit directions through all pixel centres, in world coordinates; computed in float64."""
    by_column, by_row, constant = (axis.unsqueeze(-2) for axis in cameras[..., :3].unbind(-1))
    columns = by_column * _centres(cameras, width)
    rows = by_row * _centres(cameras, height) + constant
    return _unit(rows.unsqueeze(-2) + columns.unsqueeze(-3))


def _centres(cameras: Cameras, count: int) -> Float64[Tensor, "n 1"]:
    return torch.arange(count, dtype=cameras.dtype, device=cameras.device).add_(0.5)[:, None]


def _unit(vectors: Float64[Tensor, "*shape 3"]) -> Float32[Tensor, "*shape 3"]:
    return (vectors / vectors.norm(dim=-1, keepdim=True)).float()


def rays_at(
    cameras: Float64[Tensor, "*batch T 3 4"], pixels: Integer[Tensor, "*batch P 3"]
) -> tuple[Float32[Tensor, "*batch P 3"], Float32[Tensor, "*batch P 3"]]:
    """Origins and unit directions of the rays through `pixels`, each (number of the camera, row, column)."""
    view, row, column = (number.unsqueeze(-1) for number in pixels.unbind(-1))
    chosen = torch.take_along_dim(cameras.flatten(-2), view.long(), dim=-2).unflatten(-1, (3, 4))
    by_column, by_row, constant, position = chosen.unbind(-1)
    return position.float(), _unit(by_column * (column + 0.5) + by_row * (row + 0.5) + constant)


def project(camera: Float64[Tensor, "3 4"], points: Float[Tensor, "*points 3"]) -> Float64[Tensor, "*points 3"]:
    """Where a camera sees points of the world: x and y in pixels, and the depth along its axis, negative behind it."""
    to_direction, position = camera.split((3, 1), dim=-1)
    along = torch.linalg.solve(to_direction, (points.double() - position.squeeze(-1)).unsqueeze(-1)).squeeze(-1)
    axis = torch.linalg.cross(to_direction[:, 0], to_direction[:, 1])
    depth_of_one = torch.dot(to_direction[:, 2], axis) / axis.norm()
    return torch.cat((along[..., :2] / along[..., 2:], along[..., 2:] * depth_of_one.abs()), dim=-1)


def world_to_camera(
    position: Float[Tensor, "*views 3"], target: Float[Tensor, "*views 3"] | None = None
) -> Float64[Tensor, "*views 4 4"]:
    """Rigid transformation into the frame of cameras that look at `target` (the origin unless given)."""
    return _rigid(look_at_axes(position, torch.zeros_like(position) if target is None else target), position)


def world_to_camera_by_rays(
    position: Float[Tensor, "*views 3"], rays: Float[Tensor, "*views H W 3"]
) -> Float64[Tensor, "*views 4 4"]:
    """The same where only the rays of all pixels are known: forward is the mean of the central one or two columns.

    The mean over all rows is the original's; with the principal point in the middle it equals the central pixels.
    """
    width = rays.shape[-2]
    central = rays[..., (width - 1) // 2 : width // 2 + 1, :].double()
    return _rigid(look_at_axes(position, position.double() + central.mean(dim=(-3, -2))), position)


def _rigid(axes: Float64[Tensor, "*views 3 3"], position: Float[Tensor, "*views 3"]) -> Float64[Tensor, "*views 4 4"]:
    top = torch.cat((axes, -axes @ position.double().unsqueeze(-1)), dim=-1)
    bottom = top.new_tensor([[0.0, 0.0, 0.0, 1.0]]).expand(*top.shape[:-2], 1, 4)
    return torch.cat((top, bottom), dim=-2)


def transform_points(
    transform: Float[Tensor, "rows 4"], points: Float[Tensor, "*points 3"], translate: bool = True
) -> Float[Tensor, "*points 3"]:
    """Points (or, without `translate`, directions) in another frame, in their own precision, computed in float64."""
    moved = points.double() @ transform[:3, :3].double().T
    return (moved + transform[:3, 3].double() if translate else moved).to(points.dtype)


def transform_cameras(transform: Float64[Tensor, "4 4"], cameras: Cameras) -> Cameras:
    """The same cameras in another frame."""
    moved = transform[:3, :3] @ cameras
    return torch.cat((moved[..., :3], moved[..., 3:] + transform[:3, 3:]), dim=-1)


def rotate_about_z(points: Float[Tensor, "*points 3"], angle: float) -> Float[Tensor, "*points 3"]:
    """Points or directions turned counterclockwise (seen from above) by `angle` radians."""
    x, y, z = points.double().unbind(-1)
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.stack((cosine * x - sine * y, sine * x + cosine * y, z), dim=-1).to(points.dtype)


def draw_points(generator: np.random.Generator, total: int, count: int) -> Int64[Tensor, "{count}"]:
    """`count` of `total` target pixels, each at most once unless there are too few."""
    return torch.from_numpy(generator.choice(total, count, replace=total < count, shuffle=False))


def take_views(
    scene: Batch, inputs: Sequence[int], targets: Sequence[int], points: Int64[Tensor, "P"] | None, stride: int = 1
) -> Batch:
    """The sample in which `inputs` are the views that the model is given, and `points` the target pixels (None: all).

    scene: `images` (V, 3, H, W) uint8, `cameras` (V, 3, 4), perhaps `masks` (V, H, W) uint8 (0 = background).
    points: numbers of pixels in the order (target view, row, column).
    stride: pictures of the input views keep every `stride`-th row and column, from `stride` // 2 on.

    Gives `input_images` (v, 3, h, w) and `target_pixels` (P, 3) as uint8, `input_masks` and `target_masks` likewise
    without channels, `input_cameras` (v, 3, 4), `target_cameras` (t, 3, 4), and `target_points` (P, 3) int16: target
    view, row, column. `cast_rays` completes it.
    """
    images, cameras, chosen = scene["images"], scene["cameras"], torch.tensor(targets)
    height, width = images.shape[2:]
    if points is None:
        points = torch.arange(len(targets) * height * width)
    view, pixel = points // (height * width), points % (height * width)
    row, column = pixel // width, pixel % width
    stored = chosen[view] * (height * width) + pixel
    kept = slice(stride // 2, None, stride)
    given = list(inputs)
    sample = {
        "input_images": images[given, :, kept, kept],
        "input_cameras": strided_cameras(cameras[given], stride),
        "target_pixels": images.permute(0, 2, 3, 1).reshape(-1, 3)[stored],
        "target_cameras": cameras[chosen],
        "target_points": torch.stack((view, row, column), dim=-1).short(),
    }
    if "masks" in scene:
        sample["input_masks"] = scene["masks"][given, kept, kept]
        sample["target_masks"] = scene["masks"].reshape(-1)[stored]
    return sample


def cast_rays(sample: Batch) -> Batch:
    """The sample that models of ray colours take, from one or many of `take_views`, on their device.

    input_images (*B, V, 3, h, w) and target_pixels (*B, P, 3) in [0, 1]; input_camera_pos (*B, V, 3) and
    target_camera_pos (*B, P, 3); input_rays (*B, V, h, w, 3) and target_rays (*B, P, 3), unit directions; all float32
    in world coordinates. input_masks (*B, V, h, w) and target_masks (*B, P) stay uint8 labels with 0 = background:
    metrics count labels, and nothing needs them one-hot. Other entries (sceneid, transform) pass through.
    """
    done = dict(sample)
    cameras, images = done.pop("input_cameras"), done["input_images"]
    done["input_images"] = images.float().div_(255)
    done["input_camera_pos"] = cameras[..., 3].float()
    done["input_rays"] = pixel_rays(cameras, *images.shape[-2:])
    done["target_pixels"] = done["target_pixels"].float().div_(255)
    done["target_camera_pos"], done["target_rays"] = rays_at(done.pop("target_cameras"), done.pop("target_points"))
    return done


class FixedDraws:
    """A source of scenes whose views and points are drawn once and for all: for evaluation and pictures.

    Sample i is `draw` with a generator keyed by (seed, 0, i), so that metrics of different steps compare.
    """

    def __init__(self, source: BatchSource, draw: Augment, seed: int):
        self.source = source
        self.draw = draw
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: np.ndarray) -> Batch:
        """The samples of `indices`, in that order."""
        scenes = self.source.read(indices)
        samples = []
        for row, index in enumerate(indices):
            generator = np.random.default_rng(derive_seed(self.seed, 0, int(index)))
            samples.append(self.draw({key: value[row] for key, value in scenes.items()}, generator))
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
