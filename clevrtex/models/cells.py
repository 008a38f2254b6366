"""What GNM and SPACE share: square images cut into a grid of cells, each with one object.

Shapes: B images, N objects, which are the cells row by row, D size of an object's appearance.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clevrtex.models.glimpses import boxes

LOGIT_SCALE = 8.8
"""Logits of presences lie within this distance of zero."""


@dataclass
class Objects:
    """Samples. `where` is a window as in glimpses.py."""

    presence: Float[Tensor, "B N"]
    where: Float[Tensor, "B N 4"]
    depth: Float[Tensor, "B N 1"]
    what: Float[Tensor, "B N D"]

    def extras(self, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """`presence`, `depth` (B, N), `what` (B, N, D), `boxes` (B, N, 4) in pixels of the image, `counts` (B,)."""
        return {
            "presence": self.presence,
            "counts": self.presence.round().sum(dim=1),
            "boxes": boxes(self.where, image_size),
            "depth": self.depth[..., 0],
            "what": self.what,
        }


def check_image_size(image_size: tuple[int, int], smallest: int, largest: int, model: str) -> None:
    """Raises ValueError unless `model` takes images of that height and width, squares of a power of two."""
    side = image_size[0]
    if image_size != (side, side) or side & (side - 1) or not smallest <= side <= largest:
        raise ValueError(
            f"--data: {model} takes square images whose side is a power of two from {smallest} to {largest}, found "
            f"{image_size[0]}x{image_size[1]}; give such a size, as in --data 'clevr-crop-(128,128)'"
        )


def presence_logits(values: Float[Tensor, "B N 1"]) -> Float[Tensor, "B N"]:
    """Of presences, from what a network gives for them."""
    return LOGIT_SCALE * values[..., 0].tanh()


def centres(shift: Float[Tensor, "B N 2"]) -> Float[Tensor, "B N 2"]:
    """Of windows in [-1, 1], from unsquashed shifts from the cells' centres, at most a cell's width."""
    side = math.isqrt(shift.shape[1])
    cells = torch.arange(side, device=shift.device)
    offset = torch.stack((cells.repeat(side), cells.repeat_interleave(side)), dim=-1)
    return 2 / side * (offset + 0.5 + shift.tanh()) - 1


def with_rest(masks: Float[Tensor, "B N H W"]) -> Float[Tensor, "B _ H W"]:
    """What objects leave over as slot 0, then the objects; scaled down where these sum to more than one."""
    rest = (1 - masks.sum(dim=1, keepdim=True)).clamp(min=0)
    masks = torch.cat((rest, masks), dim=1)
    return masks / masks.sum(dim=1, keepdim=True)
