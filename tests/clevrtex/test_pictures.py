"""Pictures of a validation: where every tile stands, which colour a label has, what is written."""

import pytest
import torch
from PIL import Image

from clevrtex.framework.pictures import (
    colour,
    epochs_with_pictures,
    has_pictures,
    label_colours,
    recon_picture,
    save_segmentations,
    segmentation_picture,
    side_by_side,
    slots_picture,
    to_bytes,
    validation_pictures,
)
from core.types import Decomposition
from core.viz.overlays import draw_boxes
from core.viz.panels import image_grid

SIDE = 6


def plain(*levels: float) -> torch.Tensor:
    """One even picture per level."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE).clone()


def tile(grid: torch.Tensor, row: int, column: int, padding: int) -> torch.Tensor:
    top, left = (padding + index * (SIDE + padding) for index in (row, column))
    return grid[:, top : top + SIDE, left : left + SIDE]


def level(grid: torch.Tensor, row: int, column: int, padding: int) -> int:
    (found,) = tile(grid, row, column, padding).unique().tolist()
    return found


def sample(num_slots: int = 3, count: int = 2, **extras) -> tuple[Decomposition, dict]:
    generator = torch.Generator().manual_seed(0)
    image, recon = torch.rand(2, count, 3, SIDE, SIDE, generator=generator)
    rgb = torch.rand(count, num_slots, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(num_slots, (count, SIDE, SIDE), generator=generator)
    masks = torch.nn.functional.one_hot(labels, num_slots).movedim(-1, 1).float().flip(1)
    return Decomposition(recon, masks, rgb, extras=extras), {"image": image, "mask": labels.to(torch.uint8)}


def test_calendar():
    assert epochs_with_pictures(62) == [*range(10), *range(12, 50, 3), 50, 55, 60]
    assert [epoch for epoch in range(90, 131) if has_pictures(epoch)] == [90, 95, 109, 119, 129]


def test_values_are_clamped_and_truncated():
    assert to_bytes(plain(-0.5, 0.999, 1.5))[:, 0, 0, 0].tolist() == [0, 254, 255]


def test_images_side_by_side_in_rows_of_sixteen():
    grid = side_by_side(plain(*[0.0] * 9), plain(*[1.0] * 9))
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, 2 * (SIDE + 2) + 2, 16 * (SIDE + 2) + 2)
    assert [level(grid, 0, column, 2) for column in range(4)] == [0, 255, 0, 255]
    assert [level(grid, 1, column, 2) for column in range(3)] == [0, 255, 128]  # no tile: grey
    assert grid[:, :2].unique().tolist() == [128]


def test_reconstructions_have_a_column_per_image():
    image, recon = plain(0.1, 0.2), plain(0.3, 0.4)
    patches = torch.stack([plain(0.5, 0.6), plain(0.8, 1.0)], dim=1)
    masks = torch.full((2, 2, SIDE, SIDE), 0.5)
    grid = recon_picture(image, recon, patches, masks)
    assert grid.shape == (3, 4 * (SIDE + 1) + 1, 2 * (SIDE + 1) + 1)
    levels = [[level(grid, row, column, 1) for column in range(2)] for row in range(4)]
    assert levels == [[25, 51], [76, 102], [63, 76], [102, 127]]

    assert torch.equal(recon_picture(image, recon, patches, masks, background=plain(0.0, 0.0)), grid)
    presence = torch.tensor([[0.9], [0.1]])  # of the second slot
    grid = recon_picture(image, recon, patches, masks, plain(0.0, 0.7), presence)
    assert [level(grid, 2, column, 1) for column in range(2)] == [0, 178]
    marked = tile(grid, 4, 0, 1)
    assert marked[:, :2, :2].flatten(1).T.unique(dim=0).tolist() == [[0, 255, 0]]
    assert marked[:, 2:].unique().tolist() == marked[:, :, 2:].unique().tolist() == [102]
    assert level(grid, 4, 1, 1) == 127
    assert [level(grid, 3, column, 1) for column in range(2)] == [63, 76]


def test_reconstructions_of_at_most_32_images():
    many = plain(*[0.5] * 40)
    grid = recon_picture(many, many, many[:, None], torch.ones(40, 1, SIDE, SIDE))
    assert grid.shape == (3, 3 * (SIDE + 1) + 1, 32 * (SIDE + 1) + 1)


def test_slots_in_rows_as_long_as_the_batch():
    grid = slots_picture(torch.stack([plain(0.0, 0.2), plain(0.4, 0.6), plain(0.8, 1.0)], dim=1))
    levels = [[level(grid, row, column, 1) for column in range(2)] for row in range(3)]
    assert levels == [[0, 102], [204, 51], [153, 255]]


def test_colours_of_labels():
    colours = label_colours()
    assert colours.dtype == torch.uint8
    assert colours[:6].tolist() == [[0, 0, 0], [255, 0, 0], [0, 128, 0], [0, 0, 255], [255, 255, 0], [57, 59, 121]]
    assert colours[45:48].tolist() == [[0, 255, 255], [255, 0, 255], [141, 211, 199]]
    assert len(colours[:-1].unique(dim=0)) == 58  # one grey is in two palettes
    coloured = colour(torch.tensor([[[0, 4, 59, 60, 255]]]))
    assert coloured[0, :, 0].T.tolist() == [[0, 0, 0], [255, 255, 0], *[[255, 255, 255]] * 3]


def test_pictures_of_a_validation():
    prediction, batch = sample()
    pictures = validation_pictures(prediction, batch, prefix="v1/")
    assert list(pictures) == ["v1/recon", "v1/segmentation"]
    labels = batch["mask"]
    # The slots are the objects in another order: matched, they have the colours of the truth.
    segmentation = segmentation_picture(batch["image"], prediction.recon, labels, labels)
    assert torch.equal(pictures["v1/segmentation"], segmentation)
    recon = recon_picture(batch["image"], prediction.recon, prediction.rgb, prediction.masks)
    assert torch.equal(pictures["v1/recon"], recon)


def test_pictures_of_what_some_models_have():
    prediction, batch = sample(background=plain(0.3, 0.3), presence=torch.ones(2, 3))
    prediction.extras["other_masks"] = prediction.masks.flip(1)
    prediction.extras["boxes"] = torch.tensor([1.0, 1.0, 5.0, 4.0]).expand(2, 3, 4)
    prediction.extras["glimpses"] = prediction.rgb[..., :2, :2]
    pictures = validation_pictures(prediction, batch)
    assert list(pictures) == ["recon", "segmentation", "other_recon", "other_segmentation", "output", "slots"]
    assert pictures["recon"].shape[1] == 6 * (SIDE + 1) + 1
    assert torch.equal(pictures["segmentation"], pictures["other_segmentation"])
    assert not torch.equal(pictures["recon"], pictures["other_recon"])
    assert torch.equal(pictures["slots"], slots_picture(prediction.rgb[..., :2, :2]))
    boxed = draw_boxes(prediction.recon, prediction.extras["boxes"], torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(pictures["output"], side_by_side(batch["image"], boxed))
    drawn = plain(0.1, 0.9)
    prediction.extras["canvas_with_bbox"] = drawn
    output = validation_pictures(prediction, batch)["output"]
    assert torch.equal(output, side_by_side(batch["image"], drawn))


def test_masks_without_background():
    prediction, batch = sample()
    masks = torch.nn.functional.one_hot(batch["mask"].long(), 3).movedim(-1, 1).float()[:, 1:]
    objects = Decomposition(prediction.recon, masks, prediction.rgb[:, 1:])
    found = validation_pictures(objects, batch, masks_have_background=False)["segmentation"]
    labels = batch["mask"]
    assert torch.equal(found, segmentation_picture(batch["image"], prediction.recon, labels, labels))


def test_segmentations_are_written(tmp_path):
    prediction, batch = sample(count=9)
    labels = batch["mask"]
    save_segmentations(tmp_path / "pictures", "clevr", batch["image"], prediction.recon, labels, labels)
    files = {path.name for path in (tmp_path / "pictures").iterdir()}
    parts = ("inp", "out", "tru", "pre")
    assert files == {"clevr_grid.png", *(f"clevr_{part}_{index}.png" for part in parts for index in range(8))}
    with Image.open(tmp_path / "pictures" / "clevr_tru_7.png") as picture:
        found = torch.tensor(list(picture.get_flattened_data())).view(SIDE, SIDE, 3)
    assert torch.equal(found.permute(2, 0, 1), colour(labels)[7].long())


def test_boxes_are_frames_of_one_pixel():
    boxes = torch.tensor([[[1.2, 0.6, 4.9, 3.6], [2.0, 2.0, 4.0, 4.0]]])
    present = torch.tensor([[True, False]])
    drawn = draw_boxes(plain(0.5), boxes, present, colour=(1.0, 0.0, 0.0))
    framed = (drawn[0] == torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)).all(dim=0)
    assert framed.int().tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert (drawn[0][:, ~framed] == 0.5).all()
    outside = draw_boxes(plain(0.5), torch.tensor([[[-3.0, -3.0, 3.0, 9.0]]]), torch.tensor([[True]]))
    assert (outside[0, 1] == 1).nonzero().tolist() == [[row, 2] for row in range(SIDE)]


@pytest.mark.parametrize("count", [1, 3])
def test_grid_on_another_ground(count):
    grid = image_grid(to_bytes(plain(*[1.0] * count)), columns=2, pad_value=7)
    assert grid.dtype == torch.uint8
    if count == 1:
        assert grid.shape == (3, SIDE, SIDE)
    else:
        assert level(grid, 1, 0, 2) == 255
        assert level(grid, 1, 1, 2) == grid[0, 0, 0] == 7
