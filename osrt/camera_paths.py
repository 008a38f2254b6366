"""How the camera of a rendered video moves through a scene; as in stelzner/osrt.

A path begins at the position of an input view, which is taken to look at the origin. World z points up. Time runs from
0 to 1, which a video of F frames never reaches: frame f has time f / F.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float32, Float64
from torch import Tensor

from core.data.cameras import SENSOR_WIDTH, look_at_cameras, pixel_rays, rotate_about_z, transform_points

RAMP = 0.2  # part of the time in which a faded motion gains speed, and in which it loses it
ZOOMED_SENSOR_WIDTH = SENSOR_WIDTH / 5


@dataclass(frozen=True)
class View:
    """A camera at one moment: where it is, what it looks at, in world coordinates, and the width of its sensor."""

    position: Float64[Tensor, "3"]
    target: Float64[Tensor, "3"]
    sensor_width: float = SENSOR_WIDTH

    def turned(self, angle: float) -> "View":
        """The same view after scene and camera were turned about z by `angle` radians."""
        return View(rotate_about_z(self.position, angle), rotate_about_z(self.target, angle), self.sensor_width)

    def rays(self, height: int, width: int) -> Float32[Tensor, "{height} {width} 3"]:
        """Unit directions through all pixels of a picture of this size."""
        camera = look_at_cameras(self.position, height, width, self.target, sensor_width=self.sensor_width)
        return pixel_rays(camera, height, width)


def rotate(start: Float64[Tensor, "3"], time: float) -> View:
    """Once around the z axis."""
    return View(start, start.new_zeros(3)).turned(2 * math.pi * time)


def zoom(start: Float64[Tensor, "3"], time: float) -> View:
    """The camera stays, its sensor shrinks to a fifth."""
    return View(start, start.new_zeros(3), SENSOR_WIDTH + (ZOOMED_SENSOR_WIDTH - SENSOR_WIDTH) * time)


def closeup(start: Float64[Tensor, "3"], time: float, lookup: float = 3.0) -> View:
    """Down and towards the origin, while the camera looks up: at last at a point `lookup` times its distance ahead."""
    end = start * start.new_tensor((0.2, 0.2, 0.1))
    end_target = start * start.new_tensor((1 - lookup, 1 - lookup, 0.0))
    position = start.lerp(end, time)
    position[2] = start[2].lerp(end[2], ease_out(time))
    return View(position, end_target * time)


def rotate_and_closeup(start: Float64[Tensor, "3"], time: float) -> View:
    """Once around the z axis, half of the way closer and back again."""
    angle = 2 * math.pi * time
    return closeup(start, (1 - math.cos(angle)) / 4, lookup=1.5).turned(angle)


def eyeroll(start: Float64[Tensor, "3"], time: float) -> View:
    """The camera stays and follows a point that runs clockwise around the origin."""
    angle = -2 * math.pi * time
    return View(start, start.new_tensor((1.5 * math.cos(angle), 1.5 * math.sin(angle), 0.0)))


Motion = Callable[[Float64[Tensor, "3"], float], View]
MOTIONS: dict[str, Motion] = {
    "rotate": rotate,
    "zoom": zoom,
    "closeup": closeup,
    "rotate_and_closeup": rotate_and_closeup,
    "eyeroll": eyeroll,
}


def motion_named(name: str) -> Motion:
    """ValueError for an unknown name, with the nearest one."""
    if name not in MOTIONS:
        near = difflib.get_close_matches(name, MOTIONS, 1, cutoff=0)[0]
        raise ValueError(f"--motion: no motion {name!r}; did you mean {near!r}? There are {', '.join(MOTIONS)}")
    return MOTIONS[name]


def faded(time: float) -> float:
    """Time of a motion that speeds up evenly at first and slows down at last, in between it is faster than usual."""
    speed = 1 / (1 - RAMP)
    gain = speed / RAMP
    if time <= RAMP:
        return gain * time**2 / 2
    if time <= 1 - RAMP:
        return gain * RAMP**2 / 2 + speed * (time - RAMP)
    return 1 - gain * (time - 1) ** 2 / 2


def ease_out(time: float) -> float:
    """Begins half as fast again as the time and ends half as fast."""
    return (3 * time - time**2) / 2


class CameraPath:
    """Camera positions and rays of all frames of a video.

    start: position of the first input view, in the coordinates in which the model was given the scene.
    fade: ease the motion in and out. With `as_original` not the zoom, which the original leaves out.
    transform: takes world coordinates to those of the model, if these are others.
    """

    def __init__(
        self,
        motion: str,
        start: Float32[Tensor, "3"],
        num_frames: int,
        *,
        fade: bool = False,
        transform: Float32[Tensor, "4 4"] | None = None,
        as_original: bool = False,
    ):
        self.motion = motion_named(motion)
        self.num_frames = num_frames
        self.fade = fade and not (as_original and motion == "zoom")
        self.to_model = None if transform is None else transform.double()
        self.start = start.double()
        if self.to_model is not None:
            self.start = transform_points(self.to_model.inverse(), self.start)

    def view(self, frame: int) -> View:
        """Where the camera is in a frame, in world coordinates."""
        time = frame / self.num_frames
        return self.motion(self.start, faded(time) if self.fade else time)

    def frame(
        self, frame: int, height: int, width: int
    ) -> tuple[Float32[Tensor, "3"], Float32[Tensor, "{height} {width} 3"]]:
        """Camera position and unit rays of a frame, in the coordinates of the model."""
        view = self.view(frame)
        position, rays = view.position, view.rays(height, width)
        if self.to_model is not None:
            position = transform_points(self.to_model, position)
            rays = transform_points(self.to_model, rays, translate=False)
        return position.float(), rays
