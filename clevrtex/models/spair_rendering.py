"""How SPAIR puts the objects of its cells before a background.

Shapes: B images, N cells row by row, patches of h x w.
"""

import math
import sys
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clevrtex.models.glimpses import paste
from core.nn.slot_chunks import FLOATS_IN_CACHE

LEAST_WEIGHT = 0.01
LEAST_TOTAL = 1e-6
SHARPNESS = 100.0


@dataclass
class Rendering:
    """A picture and what it is made of."""

    canvas: Float[Tensor, "B 3 H W"]
    background: Float[Tensor, "B 3 H W"]
    pieces: list[Float[Tensor, "B _ 4 H W"]]
    """Of some cells each: objects in their places, with their opacities times their presences."""
    foreground: Float[Tensor, "B 3 H W"]
    """The objects' colours times their shares in every pixel,"""
    share: Float[Tensor, "B 1 H W"]
    """and the sum of these shares."""

    def colours(self) -> Float[Tensor, "B N 3 H W"]:
        return torch.cat([piece[:, :, :3] for piece in self.pieces], dim=1)

    def masks(self) -> Float[Tensor, "B N H W"]:
        return torch.cat([piece[:, :, 3] for piece in self.pieces], dim=1)

    def log_likelihood(
        self, image: Float[Tensor, "B 3 H W"], std: Float[Tensor, ""], mixture: bool = False
    ) -> Float[Tensor, "B"]:
        """In nats per image, of normal distributions around the canvas.

        With `mixture` every pixel is of the objects, in proportion to their share, or of the background.
        """
        if not mixture:
            return _normal_log_prob(image, self.canvas, std).flatten(1).sum(dim=1)
        share = self.share.clamp(LEAST_TOTAL, 1 - LEAST_TOTAL)
        of_objects = share.log() + _normal_log_prob(image, self.foreground / share, std)
        of_background = (1 - share).log() + _normal_log_prob(image, self.background, std)
        return torch.logaddexp(of_objects, of_background).flatten(1).sum(dim=1)


def _normal_log_prob(
    image: Float[Tensor, "B 3 H W"], mean: Float[Tensor, "B 3 H W"], std: Float[Tensor, ""]
) -> Float[Tensor, "B 3 H W"]:
    return -((image - mean) / std).square() / 2 - std.log() - math.log(2 * math.pi) / 2


def render(
    patches: Float[Tensor, "B N 4 h w"],
    window: Float[Tensor, "B N 4"],
    depth: Float[Tensor, "B N 1"],
    background: Float[Tensor, "B 3 H W"],
    factored: bool = False,
    as_original: bool = False,
) -> Rendering:
    """Objects, colours and opacity as `patches`, at their windows.

    Every object is seen before the background; these pictures are averaged with weights that are the larger the more
    opaque the object is and the smaller its depth. With `factored` the weights are a softmax of opacity times depth,
    and `as_original` multiplies the objects by their share twice.
    """
    # As many cells at a time as stay in the cache: sums over few maps each, which makes this a third faster.
    together = depth.shape[1] if factored else cells_in_cache(background)
    cells = zip(*(values.split(together, dim=1) for values in (patches, window, depth[..., None, None])))
    sums, pieces = [], []
    for patch, place, distance in cells:
        pasted = paste(patch, place, background.shape[2:])
        colours, masks = pasted.split((3, 1), dim=2)
        if factored:
            weights = (SHARPNESS * distance * masks).softmax(dim=1)
        else:
            weights = (masks * distance.reciprocal()).clamp(min=LEAST_WEIGHT)
        shares = weights * masks
        sums.append(torch.cat([maps.sum(dim=1) for maps in (shares * colours, shares, weights)], dim=1))
        pieces.append(pasted)
    foreground, share, total = torch.stack(sums).sum(dim=0).split((3, 1, 1), dim=1)
    total = total.clamp(min=LEAST_TOTAL)
    foreground, share = foreground / total, share / total
    seen = share * foreground if factored and as_original else foreground
    return Rendering(seen + (1 - share) * background, background, pieces, foreground, share)


def cells_in_cache(background: Float[Tensor, "B 3 H W"]) -> int:
    """All of them on a GPU."""
    floats_per_cell = 4 * background[:, 0].numel()
    return max(1, FLOATS_IN_CACHE // floats_per_cell) if background.device.type == "cpu" else sys.maxsize
