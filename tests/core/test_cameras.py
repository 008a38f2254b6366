"""Cameras: geometry that must hold for any of them, and the samples of posed views."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from core.data.cameras import (
    FixedDraws,
    calibrated_cameras,
    cast_rays,
    draw_points,
    look_at_axes,
    look_at_cameras,
    pixel_rays,
    project,
    rays_at,
    rotate_about_z,
    strided_cameras,
    take_views,
    transform_cameras,
    transform_points,
    world_to_camera,
    world_to_camera_by_rays,
)
from core.data.loader import Batch, evaluation_batches

HEIGHT, WIDTH = 6, 8
SEEDS = range(5)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def close(ours: Tensor, expected: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(ours.double(), expected.double().expand_as(ours), rtol=0, atol=atol)


@pytest.mark.parametrize("seed", SEEDS)
def test_axes_are_right_down_and_forward(seed):
    position, target = random(2, 7, 3, seed=seed)
    right, down, forward = look_at_axes(position, target).unbind(-2)
    close(forward, torch.nn.functional.normalize(target - position, dim=-1))
    close(right[:, 2], torch.zeros(7))
    assert (down[:, 2] < 0).all()
    close(torch.linalg.cross(right, down), forward)
    close(right.norm(dim=-1), torch.ones(7))


def test_a_known_camera():
    """On the x axis, looking at the origin: right is +y, down is -z."""
    axes = look_at_axes(torch.tensor([2.0, 0, 0]), torch.zeros(3))
    close(axes, torch.tensor([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]]))
    rays = pixel_rays(look_at_cameras(torch.tensor([2.0, 0, 0]), 2, 4), 2, 4)
    corner = torch.tensor([-0.035, -0.012, 0.004])  # 3/8 of the sensor to the left, 1/8 of it up
    close(rays[0, 0], corner / corner.norm(), atol=1e-7)


@pytest.mark.parametrize(
    ("position", "target"), [((0.0, 0, 3), (0.0, 0, 0)), ((1.0, 2, 3), (1.0, 2, 3)), ((1.0, 2, 3), (1.0, 2, -1))]
)
def test_cameras_without_a_horizontal_axis(position, target):
    with pytest.raises(ValueError, match="have no horizontal axis: expected positions and targets that differ, and"):
        look_at_cameras(torch.tensor([position]), HEIGHT, WIDTH, torch.tensor([target]))


@pytest.mark.parametrize("seed", SEEDS)
def test_rays_are_unit_vectors_around_the_axis(seed):
    position, target = random(2, 3, 3, seed=seed)
    for height, width in ((HEIGHT, WIDTH), (5, 7)):
        rays = pixel_rays(look_at_cameras(position, height, width, target), height, width)
        assert rays.dtype == torch.float32
        close(rays.norm(dim=-1), torch.ones(1), atol=1e-6)
        mean = torch.nn.functional.normalize(rays.double().mean(dim=(1, 2)), dim=-1)
        close(mean, torch.nn.functional.normalize(target - position, dim=-1), atol=1e-6)
    widest = (rays[:, :, 0] * rays[:, :, -1]).sum(dim=-1)[:, 2].acos()
    close(widest, torch.tensor(2 * math.atan(0.016 * 6 / 7 / 0.035)), atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_points_on_rays_are_seen_where_the_rays_start(seed):
    position, target = random(2, 3, seed=seed)
    camera = look_at_cameras(position, HEIGHT, WIDTH, target)
    depth = 1 + random(HEIGHT, WIDTH, seed=seed).abs()
    rays = pixel_rays(camera, HEIGHT, WIDTH).double()
    seen = project(camera, position + depth[..., None] * rays)
    close(seen[..., 0], (torch.arange(WIDTH) + 0.5).expand(HEIGHT, WIDTH), atol=1e-4)
    close(seen[..., 1], (torch.arange(HEIGHT) + 0.5)[:, None].expand(HEIGHT, WIDTH), atol=1e-4)
    forward = look_at_axes(position, target)[2]
    close(seen[..., 2], depth * (rays @ forward), atol=1e-5)
    assert project(camera, position - forward)[2] == pytest.approx(-1)


@pytest.mark.parametrize("seed", SEEDS)
def test_calibrated_cameras_invert_their_projection(seed):
    axes = look_at_axes(random(3, seed=seed), torch.zeros(3))
    intrinsics = torch.tensor([[140.0, 1.5, 64], [0, 120, 50], [0, 0, 1]], dtype=torch.float64)
    position = random(3, seed=seed + 100)
    camera = calibrated_cameras(intrinsics, torch.cat((axes.T, position[:, None]), dim=1))
    points = random(20, 3, seed=seed) * 3
    pixels = (points - position) @ axes.T @ intrinsics.T
    seen = project(camera, points)
    close(seen[:, :2], pixels[:, :2] / pixels[:, 2:], atol=1e-6)
    close(seen[:, 2], pixels[:, 2])


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_strided_cameras_keep_the_rays(stride):
    camera = look_at_cameras(random(3), 2 * HEIGHT, 2 * WIDTH)
    kept = slice(stride // 2, None, stride)
    strided = pixel_rays(strided_cameras(camera, stride), 2 * HEIGHT // stride, 2 * WIDTH // stride)
    close(strided, pixel_rays(camera, 2 * HEIGHT, 2 * WIDTH)[kept, kept], atol=1e-7)


def test_rays_at_single_pixels():
    cameras = look_at_cameras(random(4, 3, 3), HEIGHT, WIDTH)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(np.stack([rng.integers(0, n, (4, 50)) for n in (3, HEIGHT, WIDTH)], axis=-1)).short()
    positions, rays = rays_at(cameras, pixels)
    view, row, column = pixels.long().unbind(-1)
    batch = torch.arange(4)[:, None]
    close(rays, pixel_rays(cameras, HEIGHT, WIDTH)[batch, view, row, column], atol=1e-7)
    assert torch.equal(positions, cameras[batch, view, :, 3].float())


@pytest.mark.parametrize("seed", SEEDS)
def test_world_to_camera(seed):
    position, target = random(2, 3, seed=seed)
    transform = world_to_camera(position, target)
    close(transform_points(transform, position), torch.zeros(3))
    close(transform_points(transform, target), torch.tensor([0, 0, 1]) * (target - position).norm())
    above = transform_points(transform, target + torch.tensor([0, 0, 0.1]))
    assert above[1] < 0
    close(transform[:3, :3] @ transform[:3, :3].T, torch.eye(3))
    close(transform[3], torch.tensor([0, 0, 0, 1]))
    close(world_to_camera(position), world_to_camera(position, torch.zeros(3)))


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 9), (6, 9), (1, 1), (2, 2)])
def test_world_to_camera_from_rays_alone(height, width):
    position, target = random(2, 5, 3)
    rays = pixel_rays(look_at_cameras(position, height, width, target), height, width)
    close(world_to_camera_by_rays(position, rays), world_to_camera(position, target), atol=1e-6)


def test_cameras_in_another_frame():
    position, target = random(2, 3, 3)
    transform = world_to_camera(random(3, seed=7))
    cameras = look_at_cameras(position, HEIGHT, WIDTH, target)
    moved = transform_cameras(transform, cameras)
    close(moved[..., 3], transform_points(transform, position))
    rays = transform_points(transform, pixel_rays(cameras, HEIGHT, WIDTH), translate=False)
    assert rays.dtype == torch.float32
    close(pixel_rays(moved, HEIGHT, WIDTH), rays, atol=1e-6)
    point = random(3, seed=9)
    close(project(moved[1], transform_points(transform, point)), project(cameras[1], point), atol=1e-6)


def test_rotation_about_z():
    close(rotate_about_z(torch.tensor([1.0, 0, 5]), math.pi / 2), torch.tensor([0, 1, 5]), atol=1e-6)
    points = random(10, 3)
    close(rotate_about_z(rotate_about_z(points, 0.7), 0.4), rotate_about_z(points, 1.1))
    assert rotate_about_z(points.float(), 1.0).dtype == torch.float32


def test_points_are_drawn_without_repetition():
    drawn = draw_points(np.random.default_rng(0), 1000, 990)
    assert drawn.dtype == torch.int64
    assert len(set(drawn.tolist())) == 990
    assert drawn.min() >= 0
    assert drawn.max() < 1000
    assert torch.equal(drawn, draw_points(np.random.default_rng(0), 1000, 990))
    assert not torch.equal(drawn, draw_points(np.random.default_rng(1), 1000, 990))


def test_points_repeat_only_if_there_are_too_few():
    drawn = draw_points(np.random.default_rng(0), 10, 30)
    assert len(drawn) == 30
    assert set(drawn.tolist()) <= set(range(10))
    assert sorted(draw_points(np.random.default_rng(0), 10, 10).tolist()) == list(range(10))


def test_points_are_drawn_evenly():
    counts = sum(torch.bincount(draw_points(np.random.default_rng(seed), 50, 20), minlength=50) for seed in range(2000))
    assert (counts.double() / 2000 - 0.4).abs().max() < 0.06


def make_scenes(count: int, num_views: int = 4, masks: bool = True) -> Batch:
    rng = np.random.default_rng(3)
    scenes = {
        "images": torch.from_numpy(rng.integers(0, 256, (count, num_views, 3, HEIGHT, WIDTH), dtype=np.uint8)),
        "cameras": look_at_cameras(random(count, num_views, 3), HEIGHT, WIDTH),
    }
    if masks:
        scenes["masks"] = torch.from_numpy(rng.integers(0, 5, (count, num_views, HEIGHT, WIDTH), dtype=np.uint8))
    return scenes


def first(scenes: Batch) -> Batch:
    return {key: value[0] for key, value in scenes.items()}


def test_sample_of_all_target_pixels():
    scene = first(make_scenes(1))
    sample = cast_rays(take_views(scene, [2, 0], [1, 3], None))
    assert torch.equal(sample["input_images"], scene["images"][[2, 0]].float() / 255)
    assert torch.equal(sample["input_masks"], scene["masks"][[2, 0]])
    assert torch.equal(sample["input_camera_pos"], scene["cameras"][[2, 0], :, 3].float())
    rays = pixel_rays(scene["cameras"], HEIGHT, WIDTH)
    close(sample["input_rays"], rays[[2, 0]], atol=1e-7)
    assert torch.equal(
        sample["target_pixels"], scene["images"][[1, 3]].permute(0, 2, 3, 1).reshape(-1, 3).float() / 255
    )
    assert torch.equal(sample["target_masks"], scene["masks"][[1, 3]].flatten())
    close(sample["target_rays"], rays[[1, 3]].reshape(-1, 3), atol=1e-7)
    positions = scene["cameras"][[1, 3], :, 3].float().repeat_interleave(HEIGHT * WIDTH, dim=0)
    assert torch.equal(sample["target_camera_pos"], positions)
    assert set(sample) == {
        f"{kind}_{what}" for kind in ("input", "target") for what in ("camera_pos", "rays", "masks")
    } | {"input_images", "target_pixels"}


def test_sample_of_some_target_pixels():
    scene = first(make_scenes(1))
    whole = cast_rays(take_views(scene, [3], [0, 2, 3], None))
    points = torch.tensor([HEIGHT * WIDTH * 3 - 1, 0, 17, 50, 17])
    some = cast_rays(take_views(scene, [3], [0, 2, 3], points))
    for key in ("target_pixels", "target_masks", "target_rays", "target_camera_pos"):
        assert torch.equal(some[key], whole[key][points]), key


def test_input_pictures_may_be_strided():
    scene = first(make_scenes(1))
    sample = cast_rays(take_views(scene, [1], [0], None, stride=2))
    whole = cast_rays(take_views(scene, [1], [0], None))
    assert torch.equal(sample["input_images"], whole["input_images"][..., 1::2, 1::2])
    assert torch.equal(sample["input_masks"], whole["input_masks"][..., 1::2, 1::2])
    close(sample["input_rays"], whole["input_rays"][:, 1::2, 1::2], atol=1e-7)
    assert len(sample["target_pixels"]) == HEIGHT * WIDTH


def test_scenes_without_masks():
    sample = cast_rays(take_views(first(make_scenes(1, masks=False)), [0], [1], None))
    assert not [key for key in sample if "mask" in key]


def test_what_travels_is_small():
    sample = take_views(first(make_scenes(1)), [0], [1, 2], torch.arange(40))
    assert {key: str(value.dtype) for key, value in sample.items()} == {
        "input_images": "torch.uint8",
        "input_masks": "torch.uint8",
        "target_pixels": "torch.uint8",
        "target_masks": "torch.uint8",
        "target_points": "torch.int16",
        "input_cameras": "torch.float64",
        "target_cameras": "torch.float64",
    }
    assert sample["target_points"].shape == (40, 3)


class Scenes:
    """A source of scenes in memory."""

    def __init__(self, count: int):
        self.scenes = make_scenes(count)

    def __len__(self) -> int:
        return len(self.scenes["images"])

    def read(self, indices: np.ndarray) -> Batch:
        return {key: value[torch.from_numpy(indices)] for key, value in self.scenes.items()}


def draw(scene: Batch, generator: np.random.Generator) -> Batch:
    view, *others = generator.permutation(4).tolist()
    return take_views(scene, [view], others, draw_points(generator, 3 * HEIGHT * WIDTH, 12))


def test_fixed_draws_do_not_depend_on_the_batches():
    source = FixedDraws(Scenes(7), draw, seed=5)
    whole = source.read(np.arange(7))
    for size in (1, 3):
        batches = list(evaluation_batches(source, size, torch.device("cpu")))
        for key, value in whole.items():
            assert torch.equal(torch.cat([batch[key] for batch in batches]), value), key
    another = FixedDraws(Scenes(7), draw, seed=6).read(np.arange(7))
    assert not torch.equal(another["target_points"], whole["target_points"])
    scene = {key: value[3] for key, value in whole.items()}
    for key, value in cast_rays(whole).items():
        assert torch.equal(cast_rays(scene)[key], value[3]), key
