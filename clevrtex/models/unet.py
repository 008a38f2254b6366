"""The U-Net from which MONet and GENESIS-V2 take their attention.

Differs from the originals, with equal numbers: maps are not enlarged or concatenated for a convolution; normalised maps
are made again on the way back instead of kept; and the passes of MONet take the gradients of large kernels together.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core.nn.doubling import doubling_kernel

Resize = Literal["keep", "halve", "double"]
"""What happens to maps before they are convolved, by nearest neighbours."""


def double(maps: Float[Tensor, "B C h w"], size: Sequence[int]) -> Float[Tensor, "B C H W"]:
    """Twice as large, and a row or column of zeros where `size` (h, w) is odd."""
    doubled = F.interpolate(maps, scale_factor=2)
    return F.pad(doubled, (0, size[1] - doubled.shape[3], 0, size[0] - doubled.shape[2]))


def every_second(maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    """A view on every second row and column, without the last of an odd number."""
    height, width = (size // 2 * 2 for size in maps.shape[2:])
    return maps[:, :, :height:2, :width:2]


class Remake:
    """Makes relu(group_norm(features)) again on the way back, once for all convolutions that read it."""

    def __init__(self, norm: nn.GroupNorm):
        self.num_groups, self.epsilon = norm.num_groups, norm.eps
        self.made: tuple[Tensor, ...] | None = None

    def make(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            weight, bias = weight.to(features.dtype), bias.to(features.dtype)
            return F.relu(F.group_norm(features, self.num_groups, weight, bias, self.epsilon), inplace=True)

    def __call__(self, *source: Tensor) -> tuple[Tensor, ...]:
        """The maps, then what they can be differentiated by."""
        if self.made is None:
            source = tuple(value.detach().requires_grad_() for value in source)
            with torch.enable_grad():
                self.made = self.make(*source), *source
        return self.made

    def forget(self) -> None:
        self.made = None


class Maps(NamedTuple):
    """What a convolution reads; with `remake` it is made again from `source` (features, weight, bias), else kept."""

    value: Tensor
    remake: Remake | None = None
    source: tuple[Tensor, ...] = ()


class Kernel:
    """A 3x3 kernel without bias, to be made once for all its uses in one graph.

    The gradient of a kernel that is larger than the maps costs more in memory traffic than in arithmetic: such uses
    are noted on the way back and give one gradient together.
    """

    def __init__(self, weight: Float[Tensor, "O C 3 3"], resize: Resize = "keep"):
        if resize == "double":
            weight = doubling_kernel(weight).contiguous()
        if torch.is_autocast_enabled(weight.device.type):
            weight = weight.to(torch.get_autocast_dtype(weight.device.type))
        self.resize: Resize = resize
        self.uses: list[tuple[Tensor, Tensor, tuple]] = []
        self.weight = _GradientOfUses.apply(weight, self.uses)

    def __call__(self, maps: Maps, size: Sequence[int] = ()) -> Float[Tensor, "B O H W"]:
        """Where maps are doubled, `size` (h, w) may be odd: see `double`."""
        missing = tuple(whole - 2 * half for whole, half in zip(size, maps.value.shape[2:])) or (0, 0)
        return _Convolution.apply(maps.value, self.weight, self.resize, missing, self.uses, maps.remake, *maps.source)


class _Convolution(torch.autograd.Function):
    """Keeps what its maps are made from, where they can be made again, in place of the maps."""

    @staticmethod
    def forward(ctx, maps, weight, resize, missing, uses, remake, *source):
        ctx.save_for_backward(weight, *(source or (maps,)))
        ctx.resize, ctx.uses, ctx.remake, ctx.size = resize, uses, remake, maps.shape
        stride = (2, 2) if resize == "double" else (1, 1)
        # Stride, padding, dilation, transposed, output padding, groups: how torch describes a convolution.
        ctx.geometry = stride, (1, 1), (1, 1), resize == "double", missing, 1
        if resize == "double":
            return F.conv_transpose2d(maps, weight, stride=2, padding=1, output_padding=missing)
        return F.conv2d(every_second(maps) if resize == "halve" else maps, weight, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        weight, *source = ctx.saved_tensors
        maps = ctx.remake(*source)[0].detach() if ctx.remake else source[0]
        maps = maps.to(gradient.dtype)
        if ctx.resize == "halve":
            maps = every_second(maps).contiguous()
        of_maps, of_weight, *others = ctx.needs_input_grad
        if of_weight and weight.numel() > maps.numel():
            ctx.uses.append((maps, gradient, ctx.geometry))
            of_weight = False
        of_maps, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient, maps, weight.to(gradient.dtype), None, *ctx.geometry, (of_maps, of_weight, False)
        )
        if ctx.resize == "halve" and of_maps is not None:
            halved, of_maps = of_maps, gradient.new_zeros(ctx.size)
            every_second(of_maps).copy_(halved)
        return of_maps, of_weight, *(None for _ in others)


class _GradientOfUses(torch.autograd.Function):
    """The identity on a weight. Its way back comes after that of all uses, with the sum of what they did not note."""

    @staticmethod
    def forward(ctx, weight, uses):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight)
        ctx.uses = uses
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        if not ctx.uses:
            return gradient, None
        maps, gradients, (geometry, *_) = zip(*ctx.uses)
        ctx.uses.clear()
        (weight,) = ctx.saved_tensors
        _, of_uses, _ = torch.ops.aten.convolution_backward(
            torch.cat(gradients), torch.cat(maps), weight, None, *geometry, (False, True, False)
        )
        return of_uses if gradient is None else gradient + of_uses, None


class _Activation(torch.autograd.Function):
    """relu(group_norm(features)), of which nothing but the features is kept."""

    @staticmethod
    def forward(ctx, features, weight, bias, remake):
        ctx.save_for_backward(features, weight, bias)
        ctx.remake = remake
        return remake.make(features, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        maps, *source = ctx.remake(*ctx.saved_tensors)
        ctx.remake.forget()
        return *torch.autograd.grad(maps, source, gradient), None


class Block(nn.Module):
    """A 3x3 convolution of all inputs together, without bias; group normalisation; ReLU."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_groups: int | None):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False) for channels in in_channels
        )
        self.norm = nn.GroupNorm(num_groups or out_channels, out_channels)
        for convolution in self.convolutions:  # the parts start like the whole
            convolution.weight.data *= (convolution.in_channels / sum(in_channels)) ** 0.5

    def activate(self, features: Float[Tensor, "B O H W"]) -> Maps:
        """What follows the convolution."""
        remake, source = Remake(self.norm), (features, self.norm.weight, self.norm.bias)
        return Maps(_Activation.apply(*source, remake), remake, tuple(value.detach() for value in source))


Kernels = list[list[Kernel]]


class UNet(nn.Module):
    """Blocks down, an MLP at the bottom, blocks up that also see the maps of their size from the way down.

    `widths` are the channels of the blocks on the way down; maps are halved between them. Channels are normalised in
    `num_groups` groups, or each by itself where it is None (instance normalisation).
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], image_size: tuple[int, int], num_groups: int | None = None
    ):
        super().__init__()
        down = zip([in_channels, *widths[:-1]], widths)
        up = zip(widths[::-1], [*widths[-2::-1], widths[0]])
        self.down = nn.ModuleList(Block([before], after, num_groups) for before, after in down)
        self.up = nn.ModuleList(Block([before, before], after, num_groups) for before, after in up)
        height, width = (length >> (len(widths) - 1) for length in image_size)
        bottom = widths[-1] * height * width
        self.mlp = nn.Sequential(
            nn.Linear(bottom, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, bottom), nn.ReLU()
        )

    @torch.compiler.disable  # it cannot follow what is noted on the way back
    def kernels(self) -> tuple[Kernels, Kernels]:
        """Of all blocks but the first, to be made once for all passes of a step."""
        down = [[Kernel(block.convolutions[0].weight, "halve")] for block in self.down[1:]]
        up = []
        for i, block in enumerate(self.up):
            of_below, of_beside = block.convolutions
            # At the bottom a larger kernel would cost more than it saves.
            up.append([Kernel(of_below.weight, "double" if i > 1 else "keep"), Kernel(of_beside.weight)])
        return down, up

    @torch.compiler.disable
    def forward(
        self, features: Float[Tensor, "B C H W"], kernels: tuple[Kernels, Kernels] | None = None
    ) -> Float[Tensor, "B C H W"]:
        """From what the first convolution makes of the input to the maps of the last block; C = `widths[0]`."""
        down, up = kernels or self.kernels()
        maps = [self.down[0].activate(features)]
        for block, (kernel,) in zip(self.down[1:], down):
            maps.append(block.activate(kernel(maps[-1])))
        bottom = maps[-1].value
        below = Maps(self.mlp(bottom.flatten(1)).view_as(bottom))
        for i, (block, (of_below, of_beside)) in enumerate(zip(self.up, up)):
            beside = maps.pop()
            size = beside.value.shape[2:]
            if i == 1:
                below = Maps(double(below.value, size))
            features = of_beside(beside)
            features += of_below(below, size if i > 1 else ())
            below = block.activate(features)
        return below.value
