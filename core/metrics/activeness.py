"""What single dimensions of a slot's code do to the picture.

Shapes: N images, K slots, Z code dimensions, T values. A decoder takes codes [S, Z], each by itself, to RGB
[S, 3, H, W] and mask logits [S, H, W]; a picture is the sum over its slots of softmax mask times RGB. When one slot
changes, only that one is decoded again: K times less work than decoding the picture.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

SlotDecoder = Callable[[Float[Tensor, "S Z"]], tuple[Float[Tensor, "S 3 H W"], Float[Tensor, "S H W"]]]


@torch.no_grad()
def activeness(
    decode: SlotDecoder,
    codes: Float[Tensor, "N K Z"],
    slots: Int[Tensor, N],
    low: Float[Tensor, Z],
    high: Float[Tensor, Z],
    num_values: int = 6,
    chunk: int = 64,
) -> Float[Tensor, "N Z"]:
    """How much each dimension changes the picture (Emami et al. 2021, after Burgess et al. 2018).

    Dimension j of slot `slots[n]` of image n takes `num_values` values evenly spaced in low[j]..high[j]. The result is
    the unbiased variance over these pictures, mean over pixels and channels. `chunk` bounds the slots decoded at once.
    """
    values = linspaces(low, high, num_values)
    return torch.stack(
        [
            traverse(decode, codes[n], int(slots[n]), values, chunk).var(dim=1, correction=1).mean(dim=(1, 2, 3))
            for n in range(len(codes))
        ]
    )


@torch.no_grad()
def traverse(
    decode: SlotDecoder, codes: Float[Tensor, "K Z"], slot: int, values: Float[Tensor, "Z T"], chunk: int = 64
) -> Float[Tensor, "Z T 3 H W"]:
    """The picture of `codes` with dimension j of one slot set to values[j, t], for every j and t.

    Raises ValueError if there is no slot of that number.
    """
    num_slots, size = codes.shape
    if not 0 <= slot < num_slots:
        raise ValueError(f"slot {slot}: there are slots 0 to {num_slots - 1}")
    others = [k for k in range(num_slots) if k != slot]
    if others:
        # They enter every picture as one: by their joint mask logit and their mixture.
        rgb, logits = decode(codes[others])
        rest_logit, rest = logits.logsumexp(dim=0), torch.einsum("khw,kchw->chw", logits.softmax(dim=0), rgb)
    changed = codes[slot].expand(*values.shape, size).clone()
    dimensions = torch.arange(size, device=codes.device)
    changed[dimensions, :, dimensions] = values.to(codes)
    pictures = []
    for part in changed.flatten(0, 1).split(chunk):
        rgb, logits = decode(part)
        if others:
            mask = (logits - rest_logit).sigmoid().unsqueeze(1)
            rgb = mask * rgb + (1 - mask) * rest
        pictures.append(rgb)
    return torch.cat(pictures).unflatten(0, values.shape)


def linspaces(low: Float[Tensor, Z], high: Float[Tensor, Z], num_values: int) -> Float[Tensor, "Z T"]:
    """`num_values` evenly spaced values per dimension, both ends included."""
    steps = torch.linspace(0, 1, num_values, dtype=torch.float64, device=low.device)
    low, high = low.double(), high.double()
    return low[:, None] + (high - low)[:, None] * steps
