"""Pictures and masks at another resolution, always by one filter: antialiased bilinear."""

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from core.metrics.segmentation import hard_labels


def resized(pictures: Float[Tensor, "*B C H W"], size: tuple[int, int]) -> Float[Tensor, "*B C H2 W2"]:
    """Pictures of another height and width, by the antialiased bilinear filter; as they are if they have it."""
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    flat = pictures.flatten(0, -4)
    found = F.interpolate(flat, size, mode="bilinear", antialias=True, align_corners=False)
    return found.view(*pictures.shape[:-2], *size)


def labels_at(masks: Float[Tensor, "*B K H W"], size: tuple[int, int]) -> Int64[Tensor, "*B H2 W2"]:
    """The slot with the largest mask at each pixel of a picture of `size`: masks are resized while they are soft."""
    return hard_labels(resized(masks, size))
