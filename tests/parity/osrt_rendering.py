"""Camera paths and rendered frames against numbers recorded from the original code."""

from pathlib import Path

import torch
from torch import Tensor

from core.data.cameras import transform_points, world_to_camera
from osrt.camera_paths import CameraPath, View, ease_out, faded, rotate_and_closeup
from osrt.original import weights_of
from osrt.rendering import Renderer, Shot
from tests.parity.golden import Case, Check
from tests.parity.osrt_models import build


def check_paths(case: Case, tmp_path: Path) -> None:
    atol = case.info["tolerance"]["atol"]
    size, num_frames = (case.info["height"], case.info["width"]), case.info["num_frames"]
    (start,) = case["in/camera_pos"]
    checked = set()

    def compare(key: str, ours: Tensor, **tolerance: float) -> None:
        torch.testing.assert_close(ours.double(), case[key].double(), **({"atol": atol, "rtol": 0} | tolerance))
        checked.add(key)

    for name in sorted({key.split("/")[1] for key in case.arrays if key.endswith("/rays")}):
        motion, *options = name.split("-")
        assert set(options) <= {"fade", "canonical"}
        transform = case["in/transform"] if "canonical" in options else None
        given = start if transform is None else transform_points(transform, start)
        path = CameraPath(motion, given, num_frames, fade="fade" in options, transform=transform, as_original=True)
        positions, rays = map(torch.stack, zip(*(path.frame(frame, *size) for frame in range(num_frames))))
        compare(f"out/{name}/camera_pos", positions)
        compare(f"out/{name}/rays", rays)
        if f"out/{name}/mean_direction" in case:
            mean = rays.double().mean(dim=(1, 2))
            compare(f"out/{name}/mean_direction", mean / mean.norm(dim=-1, keepdim=True))
        if f"out/{name}/extrinsic_before_rotation" in case:
            views = [before_rotation(path, frame) for frame in range(num_frames)]
            ours = torch.stack([world_to_camera(view.position, view.target) for view in views])
            compare(f"out/{name}/extrinsic_before_rotation", ours)
    for key, warp in (("out/fade", faded), ("out/easeout", ease_out)):
        times = case["in/t"].tolist()
        compare(key, torch.tensor([warp(time) for time in times], dtype=torch.float64), atol=1e-12)
    assert checked == {key for key in case.arrays if key.startswith("out/")}


def before_rotation(path: CameraPath, frame: int) -> View:
    """The view without the turn about z that follows the way of rotate_and_closeup."""
    view = path.view(frame)
    if path.motion is not rotate_and_closeup:
        return view
    time = frame / path.num_frames
    return view.turned(-2 * torch.pi * (faded(time) if path.fade else time))


def check_frames(case: Case, tmp_path: Path) -> None:
    model = build(case)
    parts = {part: case.tensors(f"state/{part}.") for part in ("encoder", "decoder")}
    model.load_state_dict(weights_of(parts, case.path))
    info = case.info
    faded_or_not = {"fade": info.get("fade", False), "as_original": True}
    shot = Shot(info["motion"], info["num_frames"], info["height"], info["width"], **faded_or_not)
    cpu, chunk = torch.device("cpu"), info["max_rays_per_chunk"]
    renderer = Renderer(model.eval(), shot, max_dist=1.0, device=cpu, chunk=chunk)
    atol = info["tolerance"]["atol"]
    scene = case.tensors("in/")
    path = shot.path(scene)
    for number, pictures in renderer.frames(scene, range(shot.num_frames)):
        render = case[f"out/render_{number}"]
        position, rays = path.frame(number, shot.height, shot.width)
        with torch.no_grad():
            latents = model.encode(scene["input_images"], scene["input_camera_pos"], scene["input_rays"])
            ours = model.render(latents, position[None], rays[None], chunk)
        torch.testing.assert_close(ours.pixels[0], render, atol=atol, rtol=0)
        byte = torch.from_numpy(pictures["renders"]).int()
        recorded = case[f"out/render_png_{number}"].int()
        near_a_step = ((255 * render.double()).round() - 255 * render.double()).abs() < 1e-3
        assert ((byte == recorded) | ((byte - recorded).abs() <= 1) & near_a_step).all()
        assert ("segmentations" in pictures) == (f"out/segmentation_png_{number}" in case)
        if ours.segmentation is not None:
            weights = case[f"out/weights_{number}"]
            torch.testing.assert_close(ours.segmentation[0], weights, atol=atol, rtol=0)
            colours = torch.from_numpy(pictures["segmentations"])
            assert torch.equal(colours, case[f"out/segmentation_png_{number}"])


CHECKS: dict[str, Check] = {
    "camera paths of the render command": check_paths,
    "OSRT + render command": check_frames,
}
