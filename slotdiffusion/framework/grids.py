"""Videos to look at: frames, reconstructions, masks and slots side by side, with white lines. All are in [0, 1].

Of pictures, too: T rows, which a method puts below each other.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from core.viz.colours import slot_colours
from core.viz.panels import image_grid

PADDING = 2
STRENGTH = 0.3
"""Of the colours that lie over a frame."""


def side_by_side(columns: Sequence[Float[Tensor, "T 3 H W"]]) -> Float[Tensor, "T 3 H_out W_out"]:
    """Videos of one length and size in a row, cut to [0, 1]."""
    cells = torch.stack([column.flatten(0, 1) for column in columns]).clamp(0, 1)
    return image_grid(cells, len(columns), PADDING, 1.0).unflatten(0, (len(columns[0]), 3))


def coloured(labels: Integer[Tensor, "T H W"], num_labels: int) -> Float[Tensor, "T 3 H W"]:
    """Every label in a colour of its own."""
    return slot_colours(num_labels).to(labels.device)[labels.long()].movedim(-1, -3)


def overlaid(
    video: Float[Tensor, "T 3 H W"], labels: Integer[Tensor, "T H W"], num_labels: int
) -> Float[Tensor, "T 3 H W"]:
    """The frames under the colours of their labels."""
    return torch.lerp(video, coloured(labels, num_labels), STRENGTH)


def on_white(pictures: Float[Tensor, "T K_or_1 3 H W"], masks: Float[Tensor, "T K H W"]) -> list[Tensor]:
    """For each of K masks the pictures where it is."""
    return list((1 + masks.unsqueeze(2) * (pictures - 1)).unbind(dim=1))


def hardened(labels: Integer[Tensor, "T H W"], num_labels: int) -> Float[Tensor, "T K H W"]:
    """Masks of labels, each of which is where it is wholly."""
    return F.one_hot(labels.long(), num_labels).movedim(-1, 1).float()


def masked_grid(video: Float[Tensor, "T 3 H W"], masks: Float[Tensor, "T K H W"]) -> Float[Tensor, "T 3 H_out W_out"]:
    """Frame, colours of the largest masks over it, and the frame where each mask is."""
    labels = masks.argmax(dim=1)
    return side_by_side([video, overlaid(video, labels, masks.shape[1]), *on_white(video.unsqueeze(1), masks)])


def slots_grid(
    video: Float[Tensor, "T 3 H W"],
    recon: Float[Tensor, "T 3 H W"],
    rgb: Float[Tensor, "T K 3 H W"],
    masks: Float[Tensor, "T K H W"],
) -> Float[Tensor, "T 3 H_out W_out"]:
    """Frame, reconstruction, largest masks, these over the frame, and every slot's picture where its mask is."""
    labels, count = masks.argmax(dim=1), masks.shape[1]
    seen = [video, recon, coloured(labels, count), overlaid(video, labels, count)]
    return side_by_side([*seen, *on_white(rgb, masks)])
