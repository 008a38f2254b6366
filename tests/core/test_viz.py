"""Pictures: colours, positions of pixels, files read back."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.types import Decomposition
from core.viz.colours import colour_labels, colour_masks, slot_colours
from core.viz.gifs import save_gif
from core.viz.panels import image_grid, panel, save_png

TITLE = 16
LINE = 2


def hard_decomposition(batch_size=2, size=35):
    """Slot 0 fills the left part, slot 1 the right part, slot 2 nothing; red, green and blue."""
    masks = torch.zeros(batch_size, 3, size, size)
    masks[:, 0, :, :20] = 1
    masks[:, 1, :, 20:] = 1
    rgb = torch.eye(3).view(1, 3, 3, 1, 1).expand(batch_size, 3, 3, size, size)
    return Decomposition(recon=(masks.unsqueeze(2) * rgb).sum(dim=1), masks=masks, rgb=rgb)


def as_uint8(colour):
    return (torch.as_tensor(colour) * 255).round().to(torch.uint8).tolist()


def test_slot_colours_are_stable_and_far_apart():
    for num_slots in (1, 4, 7, 24):
        colours = slot_colours(num_slots)
        assert colours.shape == (num_slots, 3)
        assert torch.equal(colours, slot_colours(num_slots))
        distances = torch.cdist(colours, colours) + 9 * torch.eye(num_slots)
        assert distances.min() > 0.12
    red, green, blue = slot_colours(3)
    assert (red.argmax().item(), green.argmax().item(), blue.argmax().item()) == (0, 1, 2)


def test_colour_masks_mixes_by_mask():
    masks = torch.tensor([[1.0, 0, 0.5], [0, 1, 0.5]]).view(2, 1, 3)
    coloured = colour_masks(masks)
    first, second = slot_colours(2)
    assert coloured.shape == (3, 1, 3)
    assert torch.allclose(coloured[:, 0].T, torch.stack([first, second, (first + second) / 2]))
    assert colour_masks(masks.expand(4, 5, 2, 1, 3)).shape == (4, 5, 3, 1, 3)


def test_colour_labels_leaves_the_background_black():
    coloured = colour_labels(torch.tensor([[[0, 1, 2]]], dtype=torch.uint8), num_objects=2)
    assert torch.equal(coloured[0, :, 0].T, torch.cat([torch.zeros(1, 3), slot_colours(2)]))
    with pytest.raises(ValueError, match="labels: expected 0 to 2, found 0 to 3"):
        colour_labels(torch.tensor([[0, 3]]), num_objects=2)


def test_image_grid_lays_out_like_make_grid():
    images = torch.arange(1, 11).view(10, 1, 1, 1).expand(10, 3, 4, 5).float()
    grid = image_grid(images)
    assert grid.shape == (3, 2 * (4 + 2) + 2, 8 * (5 + 2) + 2)
    for number in range(16):
        row, column = divmod(number, 8)
        cell = grid[:, 2 + 6 * row : 6 + 6 * row, 2 + 7 * column : 7 + 7 * column]
        assert (cell == (number + 1 if number < 10 else 0)).all()
    assert grid.sum() == images.sum()

    assert image_grid(images[:3]).shape == (3, 4 + 4, 3 * 7 + 2)
    assert image_grid(images, columns=5, padding=0).shape == (3, 8, 25)
    grey = image_grid(images[:2, :1] - 7)
    assert grey.shape == (3, 8, 16)
    assert (grey[:, 3, 3] == -6).all()
    assert torch.equal(image_grid(images[3:4]), images[3])
    assert image_grid(images[3:4, :1]).shape == (3, 4, 5)


def test_panel_positions_and_colours():
    shown = hard_decomposition()
    image = torch.full((2, 3, 35, 35), 0.2)
    image[1] = 0.6
    true_labels = torch.zeros(2, 35, 35, dtype=torch.uint8)
    true_labels[:, :10] = 1
    array = panel(image, shown, true_labels)
    side = 105  # 35 enlarged three times
    assert array.dtype == np.uint8
    assert array.shape == (TITLE + 2 * side + LINE, 7 * side + 6 * LINE, 3)

    def pixel(row, column, y, x):
        """Pixel of the original picture in a cell: at both corners of its enlargement, which must agree."""
        top, left = TITLE + row * (side + LINE) + 3 * y, column * (side + LINE) + 3 * x
        assert (array[top, left] == array[top + 2, left + 2]).all()
        return array[top, left].tolist()

    first, second, _ = slot_colours(3)
    assert (pixel(0, 0, 5, 5), pixel(1, 0, 5, 5)) == ([51] * 3, [153] * 3)  # input
    assert (pixel(1, 1, 34, 19), pixel(1, 1, 34, 20)) == ([255, 0, 0], [0, 255, 0])  # reconstruction
    assert (pixel(0, 2, 9, 0), pixel(0, 2, 10, 0)) == (as_uint8(slot_colours(1)[0]), [0, 0, 0])  # truth
    assert (pixel(0, 3, 0, 0), pixel(0, 3, 0, 34)) == (as_uint8(first), as_uint8(second))  # masks
    assert (pixel(0, 4, 0, 0), pixel(0, 4, 0, 34)) == ([255, 0, 0], [128] * 3)  # slot 0 on grey
    assert (pixel(0, 5, 0, 0), pixel(0, 5, 0, 34)) == ([128] * 3, [0, 255, 0])  # slot 1 on grey
    assert pixel(1, 6, 20, 20) == [128] * 3  # slot 2 is empty

    assert (array[TITLE:, side : side + LINE] == 255).all()
    assert (array[TITLE + side : TITLE + side + LINE] == 255).all()
    for column in range(7):
        title = array[: TITLE - 3, column * (side + LINE) : column * (side + LINE) + side]
        assert (title < 100).any()  # letters
    assert array[TITLE - 1, 5 * (side + LINE)].tolist() == as_uint8(second)  # underline of slot 1


def test_panel_without_truth_and_rgb():
    shown = hard_decomposition(batch_size=5, size=128)
    image = torch.full((5, 3, 128, 128), 0.2)
    array = panel(image, Decomposition(recon=shown.recon, masks=shown.masks), max_images=2)
    assert array.shape == (TITLE + 2 * 128 + LINE, 6 * 128 + 5 * LINE, 3)  # large pictures keep their size
    slot = array[TITLE:, 3 * (128 + LINE) :]
    assert (slot[0, 0].tolist(), slot[0, 60].tolist()) == ([51] * 3, [128] * 3)


def test_panel_refuses_videos_and_other_sizes():
    shown = hard_decomposition()
    video = Decomposition(recon=shown.recon.unsqueeze(1), masks=shown.masks.unsqueeze(1))
    with pytest.raises(ValueError, match="decomposition of a video; flatten"):
        panel(torch.zeros(2, 3, 35, 35), video)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 64, 64\), found \(2, 3, 35, 35\)"):
        panel(torch.zeros(2, 3, 64, 64), shown)


def test_png_is_read_back_as_written(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    path = tmp_path / "pictures" / "panel.png"
    save_png(path, array)
    save_png(str(path), array[::-1].copy())
    assert (np.asarray(Image.open(path)) == array[::-1]).all()
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "panel.png"
    save_png(path, np.zeros((2, 2, 3), dtype=np.uint8))
    before = path.read_bytes()
    with pytest.raises((ValueError, SystemError)):
        save_png(path, np.zeros((0, 2, 3), dtype=np.uint8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("fps", "durations"),
    [(4, [250] * 5), (8, [120, 130, 130, 120, 120]), (12, [80, 90, 80, 80, 90]), (50, [20] * 5)],
)
def test_gif_frames_and_durations(tmp_path, fps, durations):
    frames = np.zeros((5, 20, 30, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[:, : 6 * number] = (40 * number, 255 - 40 * number, 7)
    path = tmp_path / "gifs" / "slot_0_row_1.gif"
    save_gif(path, frames, fps)
    with Image.open(path) as gif:
        assert gif.n_frames == 5
        assert gif.info["loop"] == 0
        found = []
        for number in range(5):
            gif.seek(number)
            found.append(gif.info["duration"])
            assert (np.asarray(gif.convert("RGB")) == frames[number]).all()
    assert found == durations
    assert abs(sum(found) - 5000 / fps) <= 5
    assert list(path.parent.iterdir()) == [path]


def test_gif_of_equal_frames_plays_as_long(tmp_path):
    save_gif(tmp_path / "still.gif", np.full((4, 8, 8, 3), 9, dtype=np.uint8), fps=4)
    with Image.open(tmp_path / "still.gif") as gif:
        assert (gif.n_frames, gif.info["duration"]) == (1, 1000)


def test_gif_arguments_are_checked(tmp_path):
    path = tmp_path / "a.gif"
    with pytest.raises(ValueError, match="at least one frame"):
        save_gif(path, np.zeros((0, 8, 8, 3), dtype=np.uint8), fps=4)
    for fps in (0, 51):
        with pytest.raises(ValueError, match=f"fps above 0 and at most 50, found {fps}"):
            save_gif(path, np.zeros((2, 8, 8, 3), dtype=np.uint8), fps=fps)
    assert not path.exists()
