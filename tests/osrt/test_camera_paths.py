"""How the camera of a rendered video moves."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from core.data.cameras import rotate_about_z, transform_points, world_to_camera
from osrt.camera_paths import MOTIONS, CameraPath, ease_out, faded

START = torch.tensor([3.0, -2.0, 4.0])
FRAMES = 8


def central(rays: Tensor) -> Tensor:
    """The ray in the middle of a picture with an odd number of rows and columns."""
    return rays[rays.shape[0] // 2, rays.shape[1] // 2]


def width_of_view(rays: Tensor) -> float:
    """Between the rays at both ends of the middle row, on a plane at distance 1 before the camera."""
    row = rays[rays.shape[0] // 2].double()
    left, right = row[0], row[-1]
    middle = central(rays).double()
    return float((left / (left @ middle) - right / (right @ middle)).norm())


def looks_at(position: Tensor, ray: Tensor, target: tuple[float, float, float]) -> bool:
    direction = torch.tensor(target) - position
    return torch.allclose(ray, direction / direction.norm(), atol=1e-6)


@pytest.mark.parametrize("fade", [False, True])
@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_begins_at_the_input_view(motion: str, fade: bool):
    position, rays = CameraPath(motion, START, FRAMES, fade=fade).frame(0, 5, 7)
    assert torch.equal(position, START)
    assert rays.shape == (5, 7, 3)
    assert looks_at(position, central(rays), (1.5, 0, 0) if motion == "eyeroll" else (0, 0, 0))
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(5, 7))


def test_rotate_goes_once_around_the_z_axis():
    path = CameraPath("rotate", START, FRAMES)
    first = path.frame(0, 5, 7)[1]
    for frame in range(FRAMES):
        angle = 2 * math.pi * frame / FRAMES
        position, rays = path.frame(frame, 5, 7)
        torch.testing.assert_close(position, rotate_about_z(START, angle))
        torch.testing.assert_close(rays, rotate_about_z(first, angle), atol=1e-6, rtol=0)
    torch.testing.assert_close(path.frame(2, 5, 7)[0], torch.tensor([2.0, 3.0, 4.0]))


def test_zoom_narrows_the_view_towards_a_fifth_and_fades_unless_as_in_the_original():
    path, faded_path = (CameraPath("zoom", START, FRAMES, fade=fade) for fade in (False, True))
    widths = [width_of_view(path.frame(frame, 5, 7)[1]) for frame in range(FRAMES + 1)]
    assert widths[0] == pytest.approx(0.032 / 0.035 * 6 / 7, rel=1e-6)
    assert widths[-1] == pytest.approx(widths[0] / 5, rel=1e-5)
    assert widths[4] == pytest.approx(0.6 * widths[0], rel=1e-5)
    assert all(torch.equal(path.frame(frame, 5, 7)[0], START) for frame in range(FRAMES))
    assert width_of_view(faded_path.frame(1, 5, 7)[1]) > widths[1] * 1.01
    assert width_of_view(faded_path.frame(7, 5, 7)[1]) < widths[7] * 0.99
    original = CameraPath("zoom", START, FRAMES, fade=True, as_original=True)
    assert torch.equal(original.frame(1, 5, 7)[1], path.frame(1, 5, 7)[1])


def test_closeup_comes_down_while_the_camera_looks_up():
    path = CameraPath("closeup", START, 2)
    position, rays = path.frame(1, 5, 7)
    # Half of the way to (0.6, -0.4, 0.4), but 5/8 of the descent; the target is half of the way to -2 times the start.
    torch.testing.assert_close(position, torch.tensor([1.8, -1.2, 4 - 3.6 * 0.625]))
    assert looks_at(position, central(rays), (-3.0, 2.0, 0.0))


def test_rotate_and_closeup_comes_back():
    path = CameraPath("rotate_and_closeup", START, FRAMES)
    positions = torch.stack([path.frame(frame, 5, 7)[0] for frame in range(FRAMES)])
    torch.testing.assert_close(positions[1:, 2], positions[1:, 2].flip(0))
    assert positions[:, 2].argmin() == FRAMES // 2
    position, rays = path.frame(FRAMES // 2, 5, 7)
    closest = CameraPath("closeup", START, 2).frame(1, 5, 7)[0]
    torch.testing.assert_close(position, rotate_about_z(closest, math.pi))
    assert looks_at(position, central(rays), (0.75, -0.5, 0.0))


def test_eyeroll_turns_on_the_spot():
    path = CameraPath("eyeroll", START, 4)
    for frame, target in enumerate([(1.5, 0, 0), (0, -1.5, 0), (-1.5, 0, 0), (0, 1.5, 0)]):
        position, rays = path.frame(frame, 5, 7)
        assert torch.equal(position, START)
        assert looks_at(position, central(rays), target)


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_scene_in_other_coordinates_is_seen_from_the_same_places(motion: str):
    transform = world_to_camera(torch.tensor([1.0, 2.0, 3.0])).float()
    moved = CameraPath(motion, transform_points(transform, START), FRAMES, transform=transform)
    path = CameraPath(motion, START, FRAMES)
    for frame in (0, 3):
        position, rays = path.frame(frame, 5, 7)
        moved_position, moved_rays = moved.frame(frame, 5, 7)
        torch.testing.assert_close(moved_position, transform_points(transform, position), atol=1e-5, rtol=0)
        torch.testing.assert_close(moved_rays, transform_points(transform, rays, False), atol=1e-5, rtol=0)


def test_faded_time_runs_from_zero_to_one_without_jumps():
    times = [step / 1000 for step in range(1001)]
    warped = [faded(time) for time in times]
    assert warped[0] == 0
    assert warped[-1] == 1
    steps = [after - before for before, after in pairwise(warped)]
    assert min(steps) > 0
    assert max(steps) < 1.2501e-3
    assert steps[0] < 1e-5
    assert [1 - value for value in reversed(warped)] == pytest.approx(warped)
    assert [ease_out(time) for time in (0, 0.5, 1)] == [0, 0.625, 1]


def test_an_unknown_motion_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="no motion 'rotat_closeup'; did you mean 'rotate_and_closeup'"):
        CameraPath("rotat_closeup", START, FRAMES)
