"""Pictures of trainings: their columns and rows, and what is seen in them."""

import numpy as np
import pytest
import torch

from core.data.cameras import cast_rays
from core.viz.palette import palette, truncated_bytes
from osrt.models.decoder import Rendered
from osrt.models.light_field import LightField
from osrt.visualise import GAP, LABEL_WIDTH, TITLE_HEIGHT, Grid, on_checkerboard, row_labels, visualise
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
    drawn = visualise(model, batch, chunk=50, max_dist=20.0, num_angles=3)
    assert drawn.shape == (TITLE_HEIGHT + 3 * (128 + GAP), has_labels * LABEL_WIDTH + columns * (128 + GAP), 3)
    assert np.array_equal(drawn, visualise(model, batch, chunk=64, max_dist=20.0, num_angles=3))
    assert model.training


def test_slots_and_depths_are_shown_in_their_colours() -> None:
    class Half(LightField):
        """Sees slot 2 of 3 everywhere, at half of the greatest distance."""

        def __init__(self):
            torch.nn.Module.__init__(self)

        def encode(self, images, camera_pos, rays):
            return camera_pos

        def render(self, latents, camera_pos, rays, chunk):
            weights = torch.tensor([0.2, 0.2, 0.6]).expand(*rays.shape[:3], 3)
            return Rendered(torch.zeros_like(rays), weights, depths=torch.full(rays.shape[:3], 10.0))

    drawn = visualise(Half(), cast_rays(samples(1, masks=False)), chunk=10, max_dist=20.0, num_angles=1)
    columns = [drawn[TITLE_HEIGHT : TITLE_HEIGHT + 128, x : x + 128] for x in range(0, drawn.shape[1], 128 + GAP)]
    assert len(columns) == 2 + 3
    assert (columns[2] == 0).all()
    assert (columns[3] == 127).all()
    assert (columns[4] == truncated_bytes(palette(3)[3])).all()
