"""`--zoom` of generated sets: things look that many times larger, and what the files say of the camera still holds."""

from pathlib import Path

import numpy as np
import pytest

from core.data.obsurf import ObSuRF
from core.synth import clevr, clevrer, views
from core.synth.catalogue import write_set
from core.synth.h5_writer import sample_rng
from core.synth.render import index_of
from core.synth.scene import Camera
from tests.conftest import Runner


def test_zoomed_camera_shows_the_middle_larger() -> None:
    camera = Camera(clevr.CAMERA, clevr.TARGET, fov=clevrer.FOV)
    points = np.random.default_rng(0).uniform(-2, 2, (20, 3))
    plain, zoomed = camera.project(points), camera.zoomed(1.7).project(points)
    centre = np.array([camera.width / 2, camera.height / 2])
    np.testing.assert_allclose(zoomed[:, :2] - centre, 1.7 * (plain[:, :2] - centre))
    np.testing.assert_allclose(zoomed[:, 2], plain[:, 2])


def test_zoomed_views_are_taken_from_nearer() -> None:
    """Of the same things: the files hold no field of view, but places of cameras."""
    drawn = {zoom: views.draw_views(sample_rng(3, "clevr3d", 0), "clevr3d", 96, 72, 2, 4, zoom) for zoom in (1.0, 2.0)}
    (scene, shapes, cameras), (near_scene, near_shapes, near_cameras) = drawn.values()
    assert (scene.objects, shapes) == (near_scene.objects, near_shapes)
    for camera, near in zip(cameras, near_cameras):
        np.testing.assert_allclose(near.position, np.array(camera.position) / 2)
        assert near.fov == camera.fov
    assert (index_of(near_scene) > 0).sum() > 2 * (index_of(scene) > 0).sum()


@pytest.mark.parametrize("zoom", [1.0, 1.5])
def test_reader_places_the_cameras_where_they_stood(tmp_path: Path, zoom: float) -> None:
    options = {"width": 32, "height": 24, "samples": 1, "zoom": zoom}
    folder, *_ = write_set("clevr3d", tmp_path, 10, seed=2, **options)
    scene = ObSuRF(folder, "train", "clevr3d").read(np.array([0]))
    distances = np.linalg.norm(scene["cameras"][0, :, :, 3].numpy(), axis=-1)
    np.testing.assert_allclose(distances, views.RADIUS / zoom, rtol=1e-5)


def test_misuse(run: Runner, tmp_path: Path) -> None:
    for words, message in (
        (("clevr3d", "--zoom", "0"), "--zoom 0.0: must be positive"),
        (("movi-d", "--zoom", "2"), "--zoom does not apply to movi-d"),
    ):
        done = run("tools/make_data.py", *words, "--root", tmp_path, "--scenes", 1)
        assert done.returncode != 0
        assert message in done.stderr
