"""Videos to look at: frames, reconstructions, slots and roll-outs side by side, as the original logs them.

Pictures are in [0, 1], where the models' range [-1, 1] lies; what is outside is cut off in the grid.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from core.viz.panels import image_grid

PADDING = 2
CAPTION_HEIGHT = 14
GREY = 0.5
PHYRE_STILL_FRAMES = 4
"""How often the first frame of PHYRE, in which nothing moves yet, is shown once more."""
FRAME_WIDTH = 2
FRAME_INTENSITY = 0.7
PALETTE = (
    (0, 255, 0),
    (0, 0, 255),
    (0, 255, 255),
    (255, 255, 0),
    (255, 0, 255),
    (100, 100, 255),
    (200, 200, 100),
    (170, 120, 200),
    (255, 0, 0),
    (200, 100, 100),
    (10, 200, 100),
    (200, 200, 200),
    (50, 50, 50),
)
"""Colours of the labels in videos of masks."""


def slots_grid(
    video: Float[Tensor, "T 3 H W"],
    recon: Float[Tensor, "T 3 H W"],
    rgb: Float[Tensor, "T K 3 H W"],
    masks: Float[Tensor, "T K H W"],
    reverse_color: bool = False,
    is_phyre: bool = False,
) -> Float[Tensor, "T_out 3 H_out W_out"]:
    """Frame, reconstruction and every slot's picture where its mask is, on white.

    With `reverse_color`, for data on white, slots stand on grey and the lines between the cells are white, not black.
    """
    background = GREY if reverse_color else 1.0
    return _rows([video, recon, *_masked(rgb, masks, background).unbind(dim=1)], reverse_color, is_phyre)


def compare_grid(
    video: Float[Tensor, "T 3 H W"],
    recon: Float[Tensor, "T2 3 H W"],
    rollout: Float[Tensor, "T3 3 H W"],
    reverse_color: bool = False,
    is_phyre: bool = False,
) -> Float[Tensor, "T_out 3 H_out W_out"]:
    """Frame, reconstruction and roll-out; the shorter ones repeat their last frame. Options as in `slots_grid`."""
    return _rows([video, recon, rollout], reverse_color, is_phyre)


def steve_grid(video: Float[Tensor, "T 3 H W"], masks: Float[Tensor, "T K H W"]) -> Float[Tensor, "T 3 H_out W_out"]:
    """Frame, and the frame where each mask is, on grey."""
    return _rows([video, *_masked(video.unsqueeze(1), masks, GREY).unbind(dim=1)])


def dvae_grid(video: Float[Tensor, "T 3 H W"], recon: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 3 H_out W_out"]:
    """Frame and reconstruction."""
    return _rows([video, recon])


def to_bytes(grid: Float[Tensor, "T 3 H W"]) -> UInt8[Tensor, "T 3 H W"]:
    """In the memory of the CPU, a quarter of it. Values are cut, not rounded, to 0 .. 255."""
    return (255 * grid).to(torch.uint8).cpu()


def captioned(video: UInt8[Tensor, "T 3 H W"], text: str) -> UInt8[Tensor, "T 3 H_out W"]:
    """A video below a strip that says `text` in black on white; what does not fit in one line is cut off."""
    strip = Image.new("RGB", (video.shape[-1], CAPTION_HEIGHT), "white")
    ImageDraw.Draw(strip).text((2, CAPTION_HEIGHT / 2), text, "black", ImageFont.load_default(), anchor="lm")
    caption = torch.from_numpy(np.array(strip)).permute(2, 0, 1)
    return torch.cat([caption.expand(len(video), -1, -1, -1), video], dim=-2)


def stacked_videos(grids: Sequence[UInt8[Tensor, "T 3 H W"]]) -> UInt8[Tensor, "T 3 H_out W"]:
    """Grids of one length and width below each other."""
    return torch.cat(list(grids), dim=-2)


def evaluation_video(
    truth: Float[Tensor, "B T 3 H W"], prediction: Float[Tensor, "B T 3 H W"], num_burnin: int
) -> Float[Tensor, "T 3 H_out W_out"]:
    """Truth above prediction, samples side by side. Predictions have a red frame, all that the model saw a green one.

    The first `num_burnin` frames of `prediction` were reconstructed, the others predicted.
    """
    rollout = torch.arange(truth.shape[1], device=truth.device) >= num_burnin
    upper, lower = _framed(truth, torch.zeros_like(rollout)), _framed(prediction, rollout)
    return torch.cat([upper, lower], dim=-2).movedim(0, -2).flatten(-2)


def paint_labels(labels: Integer[Tensor, "*B H W"]) -> Float[Tensor, "*B 3 H W"]:
    """Labels in the colours of `PALETTE`, which starts over after the last."""
    palette = torch.tensor(PALETTE, device=labels.device) / 255
    return palette[labels.long() % len(PALETTE)].movedim(-1, -3)


def _masked(
    rgb: Float[Tensor, "T K_or_1 3 H W"], masks: Float[Tensor, "T K H W"], background: float
) -> Float[Tensor, "T K 3 H W"]:
    """Pictures where their masks are. The background itself comes out unrounded."""
    return background + masks.unsqueeze(2) * (rgb - background)


def _rows(
    columns: Sequence[Float[Tensor, "_ 3 H W"]], reverse_color: bool = False, is_phyre: bool = False
) -> Float[Tensor, "T_out 3 H_out W_out"]:
    """Videos side by side, as long as the longest."""
    length = max(len(column) for column in columns)
    columns = [torch.cat([column, column[-1:].expand(length - len(column), -1, -1, -1)]) for column in columns]
    cells = torch.stack([column.flatten(0, 1) for column in columns]).clamp(0, 1)
    grid = image_grid(cells, len(columns), PADDING, float(reverse_color)).unflatten(0, (length, 3))
    if is_phyre:
        grid = torch.cat([grid[:1].expand(PHYRE_STILL_FRAMES, -1, -1, -1), grid])
    return grid


def _framed(videos: Float[Tensor, "B T 3 H W"], is_red: Tensor) -> Float[Tensor, "B T 3 H_out W_out"]:
    """Videos with a frame around every picture, red or green."""
    framed = F.pad(videos.clamp(0, 1), [FRAME_WIDTH] * 4, value=-1.0)
    colour = FRAME_INTENSITY * torch.stack([is_red, ~is_red, torch.zeros_like(is_red)], dim=1).to(videos)
    return torch.where(framed < 0, colour[:, :, None, None], framed)
