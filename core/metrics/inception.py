"""Inception v3 (Szegedy et al. 2016), the feature network of the Frechet inception distance (FID; Heusel et al. 2017).

The distance is defined by one set of weights, those of TensorFlow's `inception-2015-12-05`, which differ from others in
how they pool. Parameters are named as in github.com/mseitzer/pytorch-fid, whose file of these weights loads as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Num
from torch import Tensor, nn

from core.metrics.pretrained import in_hub_folder, missing, read_weights
from core.training.checkpoint import load_weights

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_ADDRESS = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS}"
INPUT_SIDE = 299
NUM_FEATURES = 2048
NUM_CLASSES = 1008
BATCH_NORM_EPSILON = 1e-3
Kernel = tuple[int, int]
Step = tuple[str, int, Kernel]
"""Name, width and kernel of a convolution."""
POINT, SQUARE, LARGE = (1, 1), (3, 3), (5, 5)
ROW, COLUMN, LONG_ROW, LONG_COLUMN = (1, 3), (3, 1), (1, 7), (7, 1)


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Kernel, stride: int = 1, padding: Kernel = (0, 0)):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPSILON)

    def forward(self, x: Float[Tensor, "B C_in H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        return F.relu_(self.bn(self.conv(x)))


class Block(nn.Module):
    """Chains of convolutions side by side, and a branch that pools.

    chains: the convolutions `branch<name>` of each one after the other. Where the last ones are given as a tuple of
        their own they see the same input, and their outputs lie side by side.
    pooled: width of the convolution after the pooling, or None: then the pooling and the last convolution of every
        chain halve the picture.
    largest: pool maxima, not means.
    """

    def __init__(
        self,
        in_channels: int,
        chains: Sequence[Sequence[Step | tuple[Step, Step]]],
        pooled: int | None,
        largest: bool = False,
    ):
        super().__init__()
        self.largest = largest
        self.is_halving = pooled is None
        self.chains: list[list[list[str]]] = []
        out_channels = 0
        for chain in chains:
            width, names = in_channels, []
            for place, steps in enumerate(chain, start=1):
                steps = steps if isinstance(steps[0], tuple) else (steps,)
                is_strided = self.is_halving and place == len(chain)
                for name, channels, kernel in steps:
                    padding = (0, 0) if is_strided else (kernel[0] // 2, kernel[1] // 2)
                    unit = Unit(width, channels, kernel, 2 if is_strided else 1, padding)
                    self.add_module(f"branch{name}", unit)
                width = sum(channels for _, channels, _ in steps) if place == len(chain) else steps[0][1]
                names.append([f"branch{name}" for name, _, _ in steps])
            self.chains.append(names)
            out_channels += width
        self.branch_pool = None if pooled is None else Unit(in_channels, pooled, POINT)
        self.out_channels: int = out_channels + (in_channels if pooled is None else pooled)

    def forward(self, x: Float[Tensor, "B C_in H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        found = []
        for chain in self.chains:
            part = x
            for names in chain:
                outputs = [self.get_submodule(name)(part) for name in names]
                part = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
            found.append(part)
        return torch.cat([*found, self._pool(x)], dim=1)

    def _pool(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        if self.is_halving:
            return F.max_pool2d(x, 3, 2)
        if self.largest:
            return self.branch_pool(F.max_pool2d(x, 3, 1, 1))
        return self.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))


def _block_a(in_channels: int, pooled: int) -> Block:
    fives = [("5x5_1", 48, POINT), ("5x5_2", 64, LARGE)]
    threes = [("3x3dbl_1", 64, POINT), ("3x3dbl_2", 96, SQUARE), ("3x3dbl_3", 96, SQUARE)]
    return Block(in_channels, [[("1x1", 64, POINT)], fives, threes], pooled)


def _block_b(in_channels: int) -> Block:
    threes = [("3x3dbl_1", 64, POINT), ("3x3dbl_2", 96, SQUARE), ("3x3dbl_3", 96, SQUARE)]
    return Block(in_channels, [[("3x3", 384, SQUARE)], threes], None)


def _block_c(in_channels: int, width: int) -> Block:
    once = [("7x7_1", width, POINT), ("7x7_2", width, LONG_ROW), ("7x7_3", 192, LONG_COLUMN)]
    twice = [
        *(("7x7dbl_1", width, POINT), ("7x7dbl_2", width, LONG_COLUMN), ("7x7dbl_3", width, LONG_ROW)),
        *(("7x7dbl_4", width, LONG_COLUMN), ("7x7dbl_5", 192, LONG_ROW)),
    ]
    return Block(in_channels, [[("1x1", 192, POINT)], once, twice], 192)


def _block_d(in_channels: int) -> Block:
    threes = [("3x3_1", 192, POINT), ("3x3_2", 320, SQUARE)]
    sevens = [
        *(("7x7x3_1", 192, POINT), ("7x7x3_2", 192, LONG_ROW), ("7x7x3_3", 192, LONG_COLUMN)),
        ("7x7x3_4", 192, SQUARE),
    ]
    return Block(in_channels, [threes, sevens], None)


def _block_e(in_channels: int, largest: bool) -> Block:
    once = [("3x3_1", 384, POINT), (("3x3_2a", 384, ROW), ("3x3_2b", 384, COLUMN))]
    twice = [
        *(("3x3dbl_1", 448, POINT), ("3x3dbl_2", 384, SQUARE)),
        (("3x3dbl_3a", 384, ROW), ("3x3dbl_3b", 384, COLUMN)),
    ]
    return Block(in_channels, [[("1x1", 320, POINT)], once, twice], 192, largest)


class InceptionV3(nn.Module):
    """What the last pooling gives, 2048 numbers for every picture; `fc` is only there for the file of weights."""

    metric: ClassVar[str] = "FID"

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, SQUARE, 2)
        self.Conv2d_2a_3x3 = Unit(32, 32, SQUARE)
        self.Conv2d_2b_3x3 = Unit(32, 64, SQUARE, padding=(1, 1))
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = Unit(64, 80, POINT)
        self.Conv2d_4a_3x3 = Unit(80, 192, SQUARE)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, largest=False)
        self.Mixed_7c = _block_e(2048, largest=True)
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, pictures: Num[Tensor, "B 3 H W"]) -> Float32[Tensor, "B 2048"]:
        """Features of pictures, uint8 or floating in [0, 1], which are resized to 299 x 299."""
        x = pictures.float() if pictures.is_floating_point() else pictures.float() / 255
        x = 2 * F.interpolate(x, (INPUT_SIDE, INPUT_SIDE), mode="bilinear", align_corners=False) - 1
        for name, layer in self.named_children():
            if name != "fc":
                x = layer(x)
        return x.mean(dim=(2, 3))


def load_inception(file: str | Path | None = None) -> InceptionV3:
    """Inception with published weights, from `file` or from torch hub's cache, ready to use.

    Raises MissingWeightsError if there is no such file and CheckpointError if it is damaged or another network's.
    """
    path = in_hub_folder(WEIGHTS) if file is None else Path(file)
    if path is None:
        raise missing("FID (Inception)", [(WEIGHTS, WEIGHTS_ADDRESS)])
    network, state = InceptionV3(), read_weights(path)
    # Files older than torch 0.4.1 do not count the batches that a normalisation has seen; nothing depends on it.
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    load_weights(network, counters | state, path)
    return network.eval().requires_grad_(False)
