"""Pictures agree with the scenes that they show."""

import numpy as np
import pytest

from core.synth.render import index_of, render, smoothed, without_outliers
from core.synth.scene import Camera, Light, Material, Scene, SceneObject, rotation_about_z
from core.synth.shapes import SHAPES, mesh_of, resting_height

LIGHTS = (Light((-3.0, -4.0, 8.0), 2.0, 100.0),)


def scene(width: int = 64, height: int = 48) -> Scene:
    places = ((-1.5, -1.0), (1.2, -0.8), (0.0, 1.5))
    objects = tuple(
        SceneObject(shape, 0.6, (x, y, 0.6 * resting_height(shape)), rotation_about_z(0.4), Material((0.2, 0.5, 0.1)))
        for shape, (x, y) in zip(("cube", "cylinder", "torus"), places)
    )
    camera = Camera((6.0, -6.0, 5.0), (0.0, 0.0, 0.3), width=width, height=height)
    return Scene(objects, camera, LIGHTS)


def test_the_same_scene_is_the_same_picture():
    first, again, other = (render(scene(), 4, seed=seed) for seed in (1, 1, 2))
    assert (first.image == again.image).all()
    assert (first.index == other.index).all()
    assert (first.depth == other.depth).all()
    assert (first.image != other.image).any()
    assert first.image.shape == (48, 64, 3)
    assert (index_of(scene()) == first.index).all()


def test_recolouring_an_object_changes_its_pixels_and_hardly_any_other():
    before, after = render(scene(), 64), render(scene().recoloured(1, (0.9, 0.05, 0.05)), 64)
    assert (before.index == after.index).all()
    change = np.abs(before.image.astype(int) - after.image).max(axis=2)
    inside = before.index == 2
    edge = np.zeros_like(inside)
    for axis in (0, 1):
        for shift in (-1, 1):
            edge |= np.roll(inside, shift, axis)
    assert np.median(change[inside]) > 40
    # Light that the object reflects onto the ground is a few grey levels.
    assert np.percentile(change[~inside & ~edge], 99) < 16
    assert np.median(change[~inside & ~edge]) <= 2


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "torus"])
def test_centres_project_into_their_masks(shape):
    thing = SceneObject(shape, 0.8, (0.7, -0.4, 0.9), rotation_about_z(1.0))
    camera = Camera((5.0, -4.0, 4.0), (0.0, 0.0, 0.5), width=96, height=64)
    found = render(Scene((thing,), camera, LIGHTS), 1)
    column, row, distance = camera.project(np.array([thing.position]))[0]
    assert found.index[int(row), int(column)] == 1
    # The surface is in front of the centre, by at most what the body is deep.
    assert distance - 0.8 * 3**0.5 - 1e-3 <= found.depth[int(row), int(column)] < distance


def test_masks_lie_within_the_projected_vertices():
    for shape in SHAPES:
        thing = SceneObject(shape, 0.7, (0.2, 0.3, 0.9), rotation_about_z(0.7))
        camera = Camera((5.0, -4.0, 4.0), (0.0, 0.0, 0.5), width=96, height=96)
        index = index_of(Scene((thing,), camera, LIGHTS))
        mesh = mesh_of(shape)
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
        points = mesh[0] if mesh else corners
        turn = np.array([[np.cos(0.7), -np.sin(0.7), 0], [np.sin(0.7), np.cos(0.7), 0], [0, 0, 1]])
        seen = camera.project(0.7 * points @ turn.T + thing.position)
        rows, columns = np.nonzero(index)
        assert len(rows) > 100, shape
        assert seen[:, 0].min() - 1 <= columns.min(), shape
        assert columns.max() + 1 <= seen[:, 0].max() + 1, shape
        assert seen[:, 1].min() - 1 <= rows.min(), shape
        assert rows.max() + 1 <= seen[:, 1].max() + 1, shape
        if mesh:  # tight, too
            assert columns.max() + 1 >= seen[:, 0].max() - 2, shape
            assert rows.min() <= seen[:, 1].min() + 2, shape


def test_depth_of_the_ground_and_of_the_sky():
    camera = Camera((0.0, -5.0, 2.0), (0.0, 0.0, 2.0), width=33, height=33)
    found = render(Scene((), camera, LIGHTS, ground_size=1000.0), 1)
    assert np.isinf(found.depth[:16]).all()
    rows = np.arange(20, 33)
    focal = 33 / 2 / np.tan(np.radians(camera.fov) / 2)
    assert found.depth[rows, 16] == pytest.approx(2.0 * focal / (rows + 0.5 - 16.5), rel=1e-3)
    assert (found.index == 0).all()


def test_an_outlier_goes_and_an_edge_stays():
    radiance = np.ones((5, 6, 3))
    radiance[:, 3:] = 10
    radiance[2, 1] = 50
    index = np.zeros((5, 6), np.uint8)
    found = without_outliers(radiance, index)
    assert found[2, 1] == pytest.approx(1)
    assert (found[:, 3:] == 10).all()
    index[2, 1] = 1  # alone of its object: nothing to compare with
    assert without_outliers(radiance, index)[2, 1] == pytest.approx(50)


def test_smoothing_takes_noise_away_and_keeps_edges_and_textures():
    rng = np.random.default_rng(0)
    clean = np.full((40, 40, 3), 0.5)
    clean[:, 20:] = 1.0  # a shadow's edge
    clean[:10] *= 1 + 0.5 * (np.indices((10, 40)).sum(axis=0) % 2)[..., None]  # a texture
    albedo = np.full_like(clean, 0.5)
    albedo[:10] *= 1 + 0.5 * (np.indices((10, 40)).sum(axis=0) % 2)[..., None]
    normal, index = np.zeros_like(clean), np.zeros((40, 40), np.uint8)
    index[25:] = 1  # another object of the same colour
    noisy = clean + 0.03 * rng.normal(size=clean.shape)
    found = smoothed(noisy, albedo, normal, index)

    def error(picture: np.ndarray, rows: slice) -> float:
        flat = np.delete(picture - clean, np.arange(18, 22), axis=1)  # an edge of light is softened by two pixels
        return float(np.sqrt((flat[rows] ** 2).mean()))

    assert error(found, slice(10, 40)) < 0.5 * error(noisy, slice(10, 40))
    assert error(found, slice(0, 10)) < error(noisy, slice(0, 10))
    assert np.abs(found[30, [16, 17, 22, 23], 0] - [0.5, 0.5, 1, 1]).max() < 0.05
    apart = noisy.copy()
    apart[25:] += 7
    assert smoothed(apart, albedo, normal, index)[:25] == pytest.approx(found[:25])


def test_a_picture_of_few_paths_is_near_one_of_many():
    few, many = (render(scene(), samples).image.astype(float) for samples in (8, 256))
    assert np.sqrt(((few - many) ** 2).mean()) < 8
