"""Residual nets (He et al. 2016) with group norm (Wu and He 2018), kept fine enough for slots to look at."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slotdiffusion.models.group_norm import GroupNorm

GROUPS = 32
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
"""In every layer."""
CHANNELS = (64, 128, 256, 512)


def convolution(before: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Without bias, padded so that only the stride changes the size."""
    layer = nn.Conv2d(before, channels, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class BasicBlock(nn.Module):
    """Two 3x3 convolutions on a residual branch; the other branch has one of 1x1 where the size changes.

    The second is dilated by `dilation`, the first by that of the block before.
    """

    def __init__(self, before: int, channels: int, stride: int, dilation_before: int, dilation: int):
        super().__init__()
        self.conv1 = convolution(before, channels, 3, stride, dilation_before)
        self.bn1 = GroupNorm(GROUPS, channels)
        self.conv2 = convolution(channels, channels, 3, 1, dilation)
        self.bn2 = GroupNorm(GROUPS, channels)
        self.downsample = None
        if stride != 1 or before != channels:
            self.downsample = nn.Sequential(convolution(before, channels, 1, stride), GroupNorm(GROUPS, channels))

    def forward(self, features: Float[Tensor, "S C H W"]) -> Float[Tensor, "S C2 h w"]:
        found = self.conv2(F.relu_(self.bn1(self.conv1(features))))
        kept = features if self.downsample is None else self.downsample(features)
        return F.relu_(self.bn2(found).add_(kept))


class ResNet(nn.Module):
    """`resnet18` or `resnet34` for pictures of `resolution` (h, w), with a first convolution that keeps their size.

    The features have a quarter of it, an eighth with `use_layer4`. `replace_stride_with_dilation` says of layer2,
    layer3 and layer4 whether they keep the size and what follows is dilated instead, to see as much.
    """

    def __init__(
        self,
        name: str,
        resolution: tuple[int, int],
        use_layer4: bool = False,
        replace_stride_with_dilation: Sequence[bool] = (False, False, False),
    ):
        if name not in BLOCKS:
            raise ValueError(f"resnet={name!r} is not one of {', '.join(BLOCKS)}")
        if len(replace_stride_with_dilation) != 3:
            raise ValueError(
                f"replace_stride_with_dilation={tuple(replace_stride_with_dilation)}: expected three answers, for "
                "layer2, layer3 and layer4"
            )
        super().__init__()
        self.channels = CHANNELS[0]
        self.grid: tuple[int, int] = resolution
        """Rows and columns of the features."""
        self.conv1 = convolution(3, self.channels, 3)
        self.bn1 = GroupNorm(GROUPS, self.channels)
        self.num_layers = 4 if use_layer4 else 3
        dilation, layers = 1, zip(BLOCKS[name], CHANNELS, (False, *replace_stride_with_dilation))
        for number, (count, channels, is_dilated) in enumerate(list(layers)[: self.num_layers], start=1):
            stride, dilation_before = (1 if number == 1 else 2), dilation
            if is_dilated:
                stride, dilation = 1, dilation * stride
            blocks = [BasicBlock(self.channels, channels, stride, dilation_before, dilation)]
            blocks += [BasicBlock(channels, channels, 1, dilation, dilation) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            self.channels = channels
            self.grid = (-(-self.grid[0] // stride), -(-self.grid[1] // stride))

    def forward(self, pictures: Float[Tensor, "S 3 H W"]) -> Float[Tensor, "S C h w"]:
        features = F.relu_(self.bn1(self.conv1(pictures)))
        for number in range(1, self.num_layers + 1):
            features = self.get_submodule(f"layer{number}")(features)
        return features
