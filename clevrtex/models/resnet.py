"""Convolutional encoders of whole pictures: residual networks (He et al. 2016), VGG-16 and a small one."""

import difflib

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.batch_norm import BatchNorm2d

STAGES = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
"""Blocks of each stage; from 50 layers on they are bottlenecks."""
BOTTLENECKS = ("resnet50", "resnet101", "resnet152")
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of the convolutions before each max-pooling."""
ENCODERS = (*STAGES, "vgg16", "small")


def convolution(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = convolution(before, width, 3, stride)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = BatchNorm2d(width)
        self.downsample = shortcut(before, width, stride)

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        found = self.bn1(self.conv1(maps)).relu()
        return (self.bn2(self.conv2(found)) + self.downsample(maps)).relu()


class Bottleneck(nn.Module):
    """A 3x3 convolution of few channels between two 1x1 convolutions, beside a shortcut."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = convolution(before, width, 1)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = convolution(width, 4 * width, 1)
        self.bn3 = BatchNorm2d(4 * width)
        self.downsample = shortcut(before, 4 * width, stride)

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        found = self.bn1(self.conv1(maps)).relu()
        found = self.bn2(self.conv2(found)).relu()
        return (self.bn3(self.conv3(found)) + self.downsample(maps)).relu()


def shortcut(before: int, after: int, stride: int) -> nn.Module:
    if stride == 1 and before == after:
        return nn.Identity()
    return nn.Sequential(convolution(before, after, 1, stride), BatchNorm2d(after))


def residual_layers(name: str) -> list[nn.Module]:
    """Stem and four stages, without the classifier; a side of n pixels becomes about n / 32."""
    kind = Bottleneck if name in BOTTLENECKS else Block
    layers = [convolution(3, 64, 7, 2), BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]
    before = 64
    for stage, count in enumerate(STAGES[name]):
        width = 64 * 2**stage
        blocks: list[nn.Module] = []
        for number in range(count):
            blocks.append(kind(before, width, 2 if stage and number == 0 else 1))
            before = width * kind.expansion
        layers.append(nn.Sequential(*blocks))
    return layers


def vgg_layers() -> list[nn.Module]:
    """The convolutions of VGG-16 with batch normalisation (Simonyan & Zisserman 2015)."""
    layers: list[nn.Module] = []
    before = 3
    for width, count in VGG16:
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        layers.append(nn.MaxPool2d(2))
    return layers


def small_layers() -> list[nn.Module]:
    """Two convolutions, which the original calls `default`."""
    layers: list[nn.Module] = []
    for before, after, size in ((3, 8, 7), (8, 10, 5)):
        layers += [nn.Conv2d(before, after, size), BatchNorm2d(after), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return layers


class Encoder(nn.Module):
    """Features of whole pictures, one vector each, from the network of that name, one of `ENCODERS`.

    Its maps are averaged down to `pool` (h, w), or kept as they are, and flattened. `num_features` is the length of the
    vector for pictures of `image_size`. Raises ValueError for other names and for pictures that are too small.
    """

    def __init__(self, name: str, image_size: tuple[int, int], pool: tuple[int, int] | None):
        super().__init__()
        if name not in ENCODERS:
            near = difflib.get_close_matches(name, ENCODERS, 1, cutoff=0)[0]
            raise ValueError(f"--encoder {name!r}: did you mean {near!r}? Known are {', '.join(ENCODERS)}")
        self.pool = pool
        makers = {"vgg16": vgg_layers, "small": small_layers}
        self.layers = nn.Sequential(*(makers[name]() if name in makers else residual_layers(name)))
        if name != "small":
            self._initialise()
        self.num_features = self._count_features(name, image_size)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        maps = self.layers(image)
        return (maps if self.pool is None else F.adaptive_avg_pool2d(maps, self.pool)).flatten(1)

    def _initialise(self) -> None:
        """As torchvision does: kernels by what goes out (He et al. 2015), no biases."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def _count_features(self, name: str, image_size: tuple[int, int]) -> int:
        was_training = self.training
        self.eval()
        try:
            return self(torch.zeros(1, 3, *image_size)).shape[1]
        except RuntimeError as error:
            raise ValueError(f"--encoder {name}: pictures of {image_size[0]}x{image_size[1]} are too small") from error
        finally:
            self.train(was_training)
