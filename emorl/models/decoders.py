"""The three image decoders: every slot is broadcast to a grid and decoded to RGB and a mask logit.

The input of the first convolution is spatially constant except for a position map that all slots share, so its output
splits exactly into a per-slot vector and one shared map: conv(z + position) = (sum of kernel) z + conv(position). With
zero padding the kernel is cut at the border, hence one sum per border region. The first layer then costs one matrix
product per slot in place of a convolution per pixel.

On the CPU few slots go through at a time: what a layer hands to the next is then still in the cache.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.positions import position_grid
from core.nn.slot_chunks import split_slots

DecoderName = Literal["small", "iodine", "big"]


class Decoding(NamedTuple):
    """What a decoder says of S slots."""

    rgb: Float[Tensor, "S 3 H W"]
    mask_logits: Float[Tensor, "S H W"]


def build_decoder(
    name: DecoderName, slot_size: int, image_size: tuple[int, int], hidden: int = 64
) -> "BroadcastDecoder":
    """`small` (for 35x35), `iodine` (Greff et al. 2019, with ELU) or `big` (transposed convolutions, 96x96 only).

    Hidden layers have `hidden` channels, those of `small` half as many.
    """
    height, width = image_size
    if name == "small":
        hidden //= 2
        sizes = pairwise([slot_size, hidden, hidden, hidden])
        layers = _stack([nn.Conv2d(*pair, 5, padding=1) for pair in sizes], nn.ReLU)
        layers += [nn.Conv2d(hidden, 4, 3, padding=1)]
        return BroadcastDecoder(slot_size, (height + 6, width + 6), image_size, layers)
    if name == "iodine":
        sizes = pairwise([slot_size, hidden, hidden, hidden, hidden])
        layers = _stack([nn.Conv2d(*pair, 3) for pair in sizes], nn.ELU)
        layers += [nn.Conv2d(hidden, 4, 3)]
        return BroadcastDecoder(slot_size, (height + 10, width + 10), image_size, layers)
    if name == "big":
        if image_size != (96, 96):
            raise ValueError(
                f"Net.image_decoder='big' makes 96x96 pictures only, and Net.input_size is {height}x{width}: "
                "use 'small' or 'iodine', or 96x96 pictures"
            )
        doubling = {"stride": 2, "padding": 2, "output_padding": 1}
        sizes = pairwise([slot_size, hidden, hidden, hidden, hidden])
        layers = _stack([nn.ConvTranspose2d(*pair, 5, **doubling) for pair in sizes], nn.ReLU)
        layers += _stack([nn.ConvTranspose2d(hidden, hidden, 5, padding=2)], nn.ReLU)
        layers += [nn.ConvTranspose2d(hidden, 4, 3, padding=1)]
        return BroadcastDecoder(slot_size, (6, 6), image_size, layers)
    raise ValueError(f"Net.image_decoder={name!r} is not one of 'small', 'iodine', 'big'")


def _stack(layers: list[nn.Module], activation: type[nn.Module]) -> list[nn.Module]:
    return [module for layer in layers for module in (layer, activation(inplace=True))]


def compose(masks: Float[Tensor, "N K H W"], rgb: Float[Tensor, "N K 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """The whole picture: the slots' pictures, weighed by their masks. Stays float32 under autocast."""
    with torch.autocast(masks.device.type, enabled=False):
        return torch.einsum("nkhw,nkchw->nchw", masks, rgb)


class BroadcastDecoder(nn.Module):
    """Spatial broadcast decoder (Watters et al. 2019) over a `grid_size` grid."""

    def __init__(
        self, slot_size: int, grid_size: tuple[int, int], image_size: tuple[int, int], layers: list[nn.Module]
    ):
        super().__init__()
        self.floats_per_slot = layers[-1].in_channels * image_size[0] * image_size[1]
        self.position = nn.Linear(4, slot_size)
        self.layers = nn.Sequential(*layers)
        self.register_buffer("grid", position_grid(*grid_size), persistent=False)
        first = layers[0]
        if isinstance(first, nn.Conv2d):
            size = [length + 2 * first.padding[0] - first.kernel_size[0] + 1 for length in grid_size]
            self.register_buffer("regions", _border_regions(size, first.padding[0]), persistent=False)
            self.first_size = tuple(size)

    def shared_terms(self) -> tuple[Tensor, ...]:
        """The part of a decoding that no slot changes; compute it once per step and pass it to every decoding.

        Convolutional decoders: kernel sums [D, regions * C] and the first layer's answer to the positions [H' W', C].
        Transposed ones: the position map [D, H', W'].
        """
        position = self.position(self.grid).permute(2, 0, 1)
        first = self.layers[0]
        if not isinstance(first, nn.Conv2d):
            return (position,)
        padding = first.padding[0]
        channels, depth = first.weight.shape[:2]
        # A kernel-sized input of ones meets every region exactly once.
        ones = first.weight.new_ones(1, 1, *first.kernel_size)
        sums = F.conv2d(ones, first.weight.flatten(0, 1)[:, None], padding=padding)
        sums = sums.view(channels, depth, -1).permute(1, 2, 0).flatten(1)
        return sums, first(position[None])[0].flatten(1).t()

    def own_parameters(self) -> list[nn.Parameter]:
        """The parameters that a decoding reads itself, besides what `shared_terms` made of the others."""
        begin = 1 if isinstance(self.layers[0], nn.Conv2d) else 0
        return list(self.layers[begin:].parameters())

    def forward(self, slots: Float[Tensor, "S D"], terms: tuple[Tensor, ...] | None = None) -> Decoding:
        """RGB in [0, 1] and mask logits of every slot; `terms` come from `shared_terms`."""
        terms = terms or self.shared_terms()
        pictures = [self._draw(few, terms) for few in split_slots(slots, self.floats_per_slot)]
        pictures = torch.cat(pictures) if len(pictures) > 1 else pictures[0]
        pictures = pictures.float()
        return Decoding(pictures[:, :3].sigmoid(), pictures[:, 3])

    def _draw(self, slots: Float[Tensor, "S D"], terms: tuple[Tensor, ...]) -> Float[Tensor, "S 4 H W"]:
        if not isinstance(self.layers[0], nn.Conv2d):
            return self.layers(slots[:, :, None, None] + terms[0])
        sums, shared = terms
        per_slot = (slots @ sums).view(len(slots), -1, shared.shape[1])
        if per_slot.shape[1] == 1:
            features = shared + per_slot
        else:
            features = torch.baddbmm(shared[None], self.regions.expand(len(slots), -1, -1), per_slot)
        # The activation works in place, which autograd copies for on a view: hence before the view.
        features = self.layers[1](features)
        # [S, H' W', C] is channels-last memory of [S, C, H', W'].
        features = features.view(len(slots), *self.first_size, -1).permute(0, 3, 1, 2)
        return self.layers[2:](features)


def _border_regions(size: list[int], padding: int) -> Float[Tensor, "P R"]:
    """One-hot map from output pixels to the (2 padding + 1)^2 regions in which the kernel is cut alike."""
    per_axis = []
    for length in size:
        index = torch.arange(length)
        from_start, from_end = index.clamp(max=padding), (length - 1 - index).clamp(max=padding)
        per_axis.append(from_start + padding - from_end)
    region = per_axis[0][:, None] * (2 * padding + 1) + per_axis[1][None, :]
    return F.one_hot(region.flatten(), (2 * padding + 1) ** 2).float()
