"""The spatial broadcast decoder (Watters et al. 2019) of SAVi, with which SlotFormer shows predicted slots too."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.conv_blocks import Norm, transposed_block
from core.nn.slot_chunks import split_slots


class BroadcastDecoder(nn.Sequential):
    """Slots on a small grid with positions, enlarged by transposed convolutions to pictures and logits of masks.

    Strides are 2 until the height is that of `resolution` (h, w), 1 afterwards. With equal numbers, the first layer
    makes no convolution over the slot, which is the same everywhere: its answer is what each tap of the kernel makes of
    the slot, summed over the taps that reach a pixel.
    """

    def __init__(
        self,
        dec_channels: tuple[int, ...],
        dec_resolution: tuple[int, int],
        dec_ks: int,
        dec_norm: Norm,
        resolution: tuple[int, int],
    ):
        if dec_norm == "bn":
            raise ValueError("dec_norm='bn' would mix the slots of a batch: take '', 'gn' or 'in'")
        size, sizes, blocks = tuple(dec_resolution), [], []
        for before, channels in pairwise(dec_channels):
            stride = 2 if size[0] < resolution[0] else 1
            blocks.append(transposed_block(before, channels, dec_ks, stride, dec_norm))
            size = tuple((length - 1) * stride - 2 * (dec_ks // 2) + dec_ks + stride - 1 for length in size)
            sizes.append(size)
        if size != tuple(resolution):
            raise ValueError(
                f"dec_resolution={tuple(dec_resolution)} with {len(blocks)} layers of dec_channels and "
                f"dec_ks={dec_ks} makes pictures of {size}, but resolution={tuple(resolution)}"
            )
        super().__init__(*blocks, nn.Conv2d(dec_channels[-1], 4, 1))
        self.first_size = sizes[0]
        self.floats_per_slot = max(c * h * w for c, (h, w) in zip(dec_channels[1:], sizes))
        rows, columns = (_reach(blocks[0][0], length) for length in dec_resolution)
        self.register_buffer("reach", torch.kron(rows, columns), persistent=False)
        """Which taps of the first kernel reach each pixel of the first layer's output."""

    def forward(self, slots: Float[Tensor, "S D"], position: Float[Tensor, "h w D"]) -> Float[Tensor, "S 4 H W"]:
        """RGB without bounds, and the logit of the mask; `position` is what the position embedding adds."""
        shared = self[0][0](position.permute(2, 0, 1)[None]).flatten(2).transpose(1, 2)
        return torch.cat([self._draw(few, shared) for few in split_slots(slots, self.floats_per_slot)])

    def _draw(self, slots: Float[Tensor, "S D"], shared: Float[Tensor, "1 P C"]) -> Float[Tensor, "S 4 H W"]:
        (first, *rest), *blocks = self
        taps = slots @ first.weight.permute(0, 2, 3, 1).flatten(1)
        taps = taps.view(len(slots), -1, first.out_channels)
        features = torch.baddbmm(shared, self.reach.expand(len(slots), -1, -1), taps)
        # [S, H, W, C] is channels-last memory of [S, C, H, W].
        features = features.view(len(slots), *self.first_size, -1).permute(0, 3, 1, 2)
        for layer in (*rest, *blocks):
            features = layer(features)
        return features.float().contiguous()


def _reach(convolution: nn.ConvTranspose2d, length: int) -> Float[Tensor, "pixels taps"]:
    """One where a tap of the kernel brings something to a pixel, along one axis of that many inputs."""
    taps = torch.eye(convolution.kernel_size[0])[None]
    options = (convolution.stride[0], convolution.padding[0], convolution.output_padding[0])
    return F.conv_transpose1d(torch.ones(1, 1, length), taps, None, *options)[0].t()
