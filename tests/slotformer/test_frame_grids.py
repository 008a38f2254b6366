"""Where everything lies in the videos that SlotFormer logs."""

import pytest
import torch

from slotformer.framework.frame_grids import (
    PALETTE,
    captioned,
    compare_grid,
    dvae_grid,
    evaluation_video,
    paint_labels,
    slots_grid,
    stacked_videos,
    steve_grid,
    to_bytes,
)

T, K, H, W = 3, 2, 4, 6


def plain(value: float, length: int = T) -> torch.Tensor:
    return torch.full((length, 3, H, W), value)


def cell(grid: torch.Tensor, column: int) -> torch.Tensor:
    left = 2 + column * (W + 2)
    return grid[:, :, 2 : 2 + H, left : left + W]


def half_masks() -> torch.Tensor:
    """The first slot has the left half of the picture, the second the right half."""
    masks = torch.zeros(T, K, H, W)
    masks[:, 0, :, : W // 2] = 1
    masks[:, 1, :, W // 2 :] = 1
    return masks


@pytest.mark.parametrize(("reverse_color", "background", "line"), [(False, 1.0, 0.0), (True, 0.5, 1.0)])
def test_slots_stand_in_a_row_on_their_background(reverse_color, background, line):
    rgb = torch.stack([plain(0.2), plain(0.3)], dim=1)
    grid = slots_grid(plain(0.6), plain(1.7), rgb, half_masks(), reverse_color)
    assert grid.shape == (T, 3, H + 4, 2 + (K + 2) * (W + 2))
    assert (cell(grid, 0) == 0.6).all()
    assert (cell(grid, 1) == 1.0).all()  # cut off
    left, right = cell(grid, 2).split(W // 2, dim=-1)
    torch.testing.assert_close(left, torch.full_like(left, 0.2))
    assert (right == background).all()
    left, right = cell(grid, 3).split(W // 2, dim=-1)
    assert (left == background).all()
    torch.testing.assert_close(right, torch.full_like(right, 0.3))
    for edge in (grid[:, :, :2], grid[:, :, -2:], grid[..., :2], grid[..., -2:], grid[..., 2 + W : 4 + W]):
        assert (edge == line).all()


def test_a_caption_stands_above_every_frame():
    video = torch.full((T, 3, 10, 120), 7, dtype=torch.uint8)
    first, other = captioned(video, "label 1, predicted 0.93"), captioned(video, "label 0, predicted 0.93")
    assert torch.equal(first[:, :, -10:], video)
    strips = first[:, :, :-10]
    assert (strips == strips[:1]).all()
    assert strips.min() < 16
    assert strips.max() == 255
    assert not torch.equal(strips, other[:, :, :-10])


def test_phyre_shows_its_first_frame_four_times_more():
    video = torch.arange(T).view(T, 1, 1, 1).expand(T, 3, H, W) / 10
    rgb = video.unsqueeze(1).expand(-1, K, -1, -1, -1)
    grid = slots_grid(video, video, rgb, half_masks(), is_phyre=True)
    torch.testing.assert_close(cell(grid, 0)[:, 0, 0, 0], torch.tensor([0.0] * 5 + [0.1, 0.2]))


def test_shorter_videos_repeat_their_last_frame():
    grid = compare_grid(plain(0.1, 2), torch.cat([plain(0.2, 1), plain(0.3, 2)]), plain(0.4, 4))
    assert grid.shape == (4, 3, H + 4, 2 + 3 * (W + 2))
    torch.testing.assert_close(cell(grid, 0)[:, 0, 0, 0], torch.tensor([0.1, 0.1, 0.1, 0.1]))
    torch.testing.assert_close(cell(grid, 1)[:, 0, 0, 0], torch.tensor([0.2, 0.3, 0.3, 0.3]))
    torch.testing.assert_close(cell(grid, 2)[:, 0, 0, 0], torch.tensor([0.4, 0.4, 0.4, 0.4]))


def test_steve_shows_what_each_slot_attends_to():
    grid = steve_grid(plain(0.9), half_masks())
    assert (cell(grid, 0) == 0.9).all()
    left, right = cell(grid, 1).split(W // 2, dim=-1)
    torch.testing.assert_close(left, torch.full_like(left, 0.9))
    assert (right == 0.5).all()


def test_stacked_videos_cut_values():
    grids = [dvae_grid(plain(0.999), plain(0.0)), dvae_grid(plain(1.0), plain(0.5))]
    stacked = stacked_videos([to_bytes(grid) for grid in grids])
    assert stacked.dtype == torch.uint8
    assert stacked.shape == (T, 3, 2 * (H + 4), 2 + 2 * (W + 2))
    upper, lower = stacked.chunk(2, dim=2)
    assert (cell(upper, 0) == 254).all()
    assert (cell(lower, 0) == 255).all()
    assert (cell(lower, 1) == 127).all()


def test_evaluation_video_frames_what_is_predicted_in_red():
    truth = torch.stack([plain(0.1), plain(0.2)])
    video = evaluation_video(truth, truth + 0.5, num_burnin=1)
    assert video.shape == (T, 3, 2 * (H + 4), 2 * (W + 4))
    green, red = torch.tensor([0.0, 0.7, 0.0]), torch.tensor([0.7, 0.0, 0.0])
    for frame in range(T):
        for sample, left in enumerate((0, W + 4)):
            expected = green if frame < 1 else red
            torch.testing.assert_close(video[frame, :, 0, left], green)
            torch.testing.assert_close(video[frame, :, H + 3, left + W + 3], green)
            torch.testing.assert_close(video[frame, :, H + 4, left], expected)
            torch.testing.assert_close(video[frame, :, -1, left + W + 3], expected)
            assert video[frame, 0, 2, left + 2] == truth[sample, 0, 0, 0, 0]
            assert video[frame, 0, H + 6, left + 2] == truth[sample, 0, 0, 0, 0] + 0.5


def test_labels_have_the_colours_of_the_palette():
    painted = paint_labels(torch.tensor([[0, 12], [13, 5]]))
    expected = torch.tensor([[PALETTE[0], PALETTE[12]], [PALETTE[0], PALETTE[5]]]) / 255
    assert torch.equal(painted, expected.permute(2, 0, 1))
    assert len(set(PALETTE)) == 13
