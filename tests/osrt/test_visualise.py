"""Pictures of trainings: their columns and rows, and what is seen in them."""

import numpy as np
import pytest
import torch

from core.data.cameras import cast_rays, look_at_cameras, pixel_rays, transform_cameras, world_to_camera
from core.viz.palette import palette, truncated_bytes
from osrt.models.decoder import Rendered
from osrt.models.light_field import LightField
from osrt.visualise import GAP, LABEL_WIDTH, TITLE_HEIGHT, Grid, on_checkerboard, row_labels, turned, visualise
from tests.osrt_samples import samples, small_model


def test_a_grid_lays_out_columns_and_rows() -> None:
    grid = Grid()
    red = np.zeros((2, 16, 32, 3))
    red[..., 0] = 1.0
    grid.add("red", red)
    grid.add("black", 0 * red)
    drawn = grid.draw()
    height, width = 64, 128
    assert drawn.shape == (TITLE_HEIGHT + 2 * (height + GAP), 2 * (width + GAP), 3)
    assert (drawn[TITLE_HEIGHT : TITLE_HEIGHT + height, :width] == (255, 0, 0)).all()
    assert (drawn[TITLE_HEIGHT : TITLE_HEIGHT + height, width + GAP : 2 * width + GAP] == 0).all()
    assert (drawn[:TITLE_HEIGHT] < 128).any(), "the titles"
    grid.labels = ["first", "second"]
    assert grid.draw().shape[1] == LABEL_WIDTH + 2 * (width + GAP)


def test_transparent_pictures_lie_on_a_checkerboard() -> None:
    picture = np.ones((4, 4, 4))
    picture[:, 2:, 3] = 0
    shown = on_checkerboard(picture)
    assert (shown[:, :2] == 1).all()
    assert (shown[:2, 2:] == 0.5).all()
    assert (shown[2:, 2:] == 0.85).all()


def test_labels_of_rows() -> None:
    masks = torch.tensor([[[0, 1], [2, 2]], [[0, 0], [0, 0]]])
    assert row_labels(masks, torch.tensor([[[5, 5], [3, 3]], [[1, 2], [3, 4]]])) == [
        "2D Fg-ARI=100.0",
        "2D Fg-ARI=100.0",
    ]
    assert row_labels(masks[:1], torch.zeros_like(masks[:1])) == ["2D Fg-ARI=0.0"]


@pytest.mark.parametrize(
    ("decoder", "masks", "columns", "has_labels"),
    [("slot_mixer", True, 2 + 1 + 2 * 3, True), ("srt", True, 2 + 1 + 3, False), ("slot_mixer", False, 2 + 6, False)],
)
def test_columns_of_models_and_data(decoder: str, masks: bool, columns: int, has_labels: bool) -> None:
    model, batch = small_model(decoder), cast_rays(samples(3, masks=masks))
    if masks:
        batch["input_masks"] = torch.ones(3, 2, 8, 8, dtype=torch.uint8)
    drawn = visualise(model, batch, max_dist=20.0, num_angles=3)
    assert drawn.shape == (TITLE_HEIGHT + 3 * (128 + GAP), has_labels * LABEL_WIDTH + columns * (128 + GAP), 3)
    assert np.array_equal(drawn, visualise(model, batch, max_dist=20.0, num_angles=3))
    assert model.training


def test_slots_and_depths_are_shown_in_their_colours() -> None:
    class Half(LightField):
        """Sees slot 2 of 3 everywhere, at half of the greatest distance."""

        def __init__(self):
            torch.nn.Module.__init__(self)

        def encode(self, images, camera_pos, rays):
            return camera_pos

        def prepare(self, latents):
            return (latents,)

        def render(self, prepared, camera_pos, rays):
            weights = torch.tensor([0.2, 0.2, 0.6]).expand(*rays.shape[:3], 3)
            return Rendered(torch.zeros_like(rays), weights, depths=torch.full(rays.shape[:3], 10.0))

    drawn = visualise(Half(), cast_rays(samples(1, masks=False)), max_dist=20.0, num_angles=1)
    columns = [drawn[TITLE_HEIGHT : TITLE_HEIGHT + 128, x : x + 128] for x in range(0, drawn.shape[1], 128 + GAP)]
    assert len(columns) == 2 + 3
    assert (columns[2] == 0).all()
    assert (columns[3] == 127).all()
    assert (columns[4] == truncated_bytes(palette(3)[3])).all()


def test_cameras_go_around_the_scene_in_coordinates_of_a_camera_too() -> None:
    positions = torch.tensor([[3.0, 1.0, 2.0], [-2.0, 4.0, 3.0]])
    transforms = world_to_camera(positions)
    cameras = look_at_cameras(positions, 4, 6)
    in_the_world = turned(positions, pixel_rays(cameras, 4, 6), 2.0)
    own = torch.stack([transform_cameras(transform, camera) for transform, camera in zip(transforms, cameras)])
    found = turned(own[..., 3].float(), pixel_rays(own, 4, 6), 2.0, transforms.float())
    for wanted, values, offset in zip(in_the_world, found, (transforms[:, :3, 3], torch.zeros(2, 3))):
        moved = torch.einsum("bij,b...j->b...i", transforms[:, :3, :3], wanted.double())
        moved = moved + offset.reshape(2, *[1] * (moved.ndim - 2), 3)
        torch.testing.assert_close(values, moved.float(), rtol=1e-5, atol=1e-5)
    # The first view looks along the third axis; seen from the other side of the scene it looks back.
    assert own[0, :, 3].abs().max() < 1e-6
    assert found[0][0, 2] > 1
