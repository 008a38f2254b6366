"""Errors between pictures at several scales. The published MarioNette is trained without them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BINOMIAL = (1, 4, 6, 4, 1)
MAX_LEVELS = 5


def smooth(pictures: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """5x5 binomial filter; pictures are mirrored at their borders."""
    channels = pictures.shape[1]
    line = torch.tensor(BINOMIAL, dtype=pictures.dtype, device=pictures.device) / sum(BINOMIAL)
    kernel = (line[:, None] * line).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(pictures, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)


def pyramid_loss(recon: Float[Tensor, "B C H W"], image: Float[Tensor, "B C H W"], power: int = 1) -> Float[Tensor, ""]:
    """|difference| ** power, summed over channels, mean over pixels, images and the levels of a Gaussian pyramid.

    Of at most five levels, each smoothed and halved by averages of 2x2 pixels; maps below 3 pixels are the last ones.
    """
    difference = recon - image
    levels = [difference.abs().pow(power).mean()]
    while len(levels) < MAX_LEVELS and min(difference.shape[2:]) > 2:
        difference = F.avg_pool2d(smooth(difference), 2)
        levels.append(difference.abs().pow(power).mean())
    return torch.stack(levels).mean() * recon.shape[1]
