"""LPIPS, the perceptual distance of Zhang et al. 2018, version 0.1, over AlexNet (2012) or VGG16 (2014).

Pictures are in [-1, 1] and not clamped. The networks are our own; their published weights come from files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from core.metrics.pretrained import in_hub_folder, missing, read_weights
from core.training.checkpoint import CheckpointError

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
NORM_EPSILON = 1e-10
CPU_CHUNK_PIXELS = 1 << 16
GPU_CHUNK_PIXELS = 1 << 19
"""How many pixels of a batch are compared at once: as few as keep the device busy, to save memory."""
GRADIENT_SCALE = 2.0**14
"""Keeps gradients inside the networks above what float16 rounds to zero; a power of two changes nothing else."""


@dataclass(frozen=True)
class Convolution:
    """A convolution with ReLU; `index` is its place in torchvision's `features`."""

    index: int
    in_channels: int
    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 1

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes."""
        kernel = (self.out_channels, self.in_channels, self.kernel_size, self.kernel_size)
        return {f"features.{self.index}.weight": kernel, f"features.{self.index}.bias": kernel[:1]}


@dataclass(frozen=True)
class Backbone:
    """Stages of convolutions; what the last one of a stage puts out is compared. `pooled` stages pool first."""

    file: str
    hashed_file: str
    stages: tuple[tuple[Convolution, ...], ...]
    pooled: tuple[int, ...]
    pool_kernel: int
    smallest_side: int

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all weights, those of the linear layers included."""
        shapes = {name: shape for stage in self.stages for layer in stage for name, shape in layer.weights().items()}
        return shapes | {f"lin{i}": (stage[-1].out_channels,) for i, stage in enumerate(self.stages)}


BACKBONES = {
    "alex": Backbone(
        file="alexnet.pth",
        hashed_file="alexnet-owt-7be5be79.pth",
        stages=(
            (Convolution(0, 3, 64, kernel_size=11, stride=4, padding=2),),
            (Convolution(3, 64, 192, kernel_size=5, padding=2),),
            (Convolution(6, 192, 384),),
            (Convolution(8, 384, 256),),
            (Convolution(10, 256, 256),),
        ),
        pooled=(1, 2),
        pool_kernel=3,
        smallest_side=31,
    ),
    "vgg": Backbone(
        file="vgg16.pth",
        hashed_file="vgg16-397923af.pth",
        stages=(
            (Convolution(0, 3, 64), Convolution(2, 64, 64)),
            (Convolution(5, 64, 128), Convolution(7, 128, 128)),
            (Convolution(10, 128, 256), Convolution(12, 256, 256), Convolution(14, 256, 256)),
            (Convolution(17, 256, 512), Convolution(19, 512, 512), Convolution(21, 512, 512)),
            (Convolution(24, 512, 512), Convolution(26, 512, 512), Convolution(28, 512, 512)),
        ),
        pooled=(1, 2, 3, 4),
        pool_kernel=2,
        smallest_side=16,
    ),
}


def feature_distance(
    x: Float[Tensor, "B C H W"], y: Float[Tensor, "B C H W"], weight: Float[Tensor, C]
) -> Float32[Tensor, B]:
    """Contribution of one layer (Zhang et al. 2018, equation 1): weighted squared difference of unit features.

    Features are divided by their length over channels plus 1e-10; the gradient where a feature is zero is finite.
    """
    with torch.autocast(x.device.type, enabled=False):
        return _FeatureDistance.apply(x.float(), y.float(), weight.float())


class _FeatureDistance(torch.autograd.Function):
    """With a backward pass by hand: a fifth of the time, and one difference kept instead of all steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        lengths = [torch.linalg.vector_norm(features, dim=1, keepdim=True) for features in (x, y)]
        divisors = [length + NORM_EPSILON for length in lengths]
        difference = (x / divisors[0]).addcdiv_(y, divisors[1], value=-1)
        kept = (features if wanted else None for features, wanted in zip((x, y), ctx.needs_input_grad))
        ctx.save_for_backward(*kept, weight, difference, *lengths)
        return difference.square().mean(dim=(2, 3)) @ weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y, weight, difference, *lengths = ctx.saved_tensors
        factor = torch.outer(upstream, weight) * (2 / (difference.shape[2] * difference.shape[3]))
        of_unit = difference * factor[:, :, None, None]
        gradients = []
        for features, length, sign in zip((x, y), lengths, (1, -1)):
            if features is None:
                gradients.append(None)
                continue
            divisor = length + NORM_EPSILON
            along = (of_unit * features).sum(dim=1, keepdim=True) / length
            along = along.masked_fill_(length == 0, 0) / divisor.square()
            gradients.append((of_unit * (sign / divisor)).addcmul_(features, along, value=-sign))
        return *gradients, None


class LPIPS(nn.Module):
    """Perceptual distance of pairs of pictures; see `load_lpips` for one with the published weights.

    The weights are frozen: buffers, which no optimiser and no checkpoint sees. There is no dropout; the original's was
    at work whenever a model trained with LPIPS, by mistake.

    weights: as `load_lpips` reads them, by the names `features.N.weight`, `features.N.bias` and `linN`.
    """

    def __init__(self, net: str, weights: Mapping[str, Tensor]):
        super().__init__()
        self.backbone = BACKBONES[net]
        for name, shape in self.backbone.weights().items():
            value = weights[name].float().reshape(shape)
            if value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            self._add(name, value)
        self._add("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self._add("scale", torch.tensor(SCALE).view(1, 3, 1, 1))

    def _add(self, name: str, value: Tensor) -> None:
        self.register_buffer(name.replace(".", "_"), value, persistent=False)

    def forward(self, x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "B 3 H W"]) -> Float32[Tensor, B]:
        """Distance of every pair, differentiable once in either picture.

        Pictures do not influence each other's distances. So gradients are computed in the forward pass, chunk by chunk,
        and of all activations only they, three channels a picture, are kept for the backward pass.

        Raises ValueError if the shapes differ or the pictures are too small for the network.
        """
        smallest = self.backbone.smallest_side
        if x.shape != y.shape or min(x.shape[-2:]) < smallest:
            raise ValueError(
                f"LPIPS: expected two batches of pictures of one shape, {smallest} pixels or more on each side, found "
                f"{tuple(x.shape)} and {tuple(y.shape)}"
            )
        return _Distances.apply(self, x, y)

    def layers(self, x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "B 3 H W"]) -> Iterator[Float32[Tensor, B]]:
        """What each stage of the network adds to the distance, in its order."""
        x, y = (((images - self.shift) / self.scale) for images in (x, y))
        x, y = (images.contiguous(memory_format=torch.channels_last) for images in (x, y))
        for number, stage in enumerate(self.backbone.stages):
            x, y = self._stage(number, stage, x), self._stage(number, stage, y)
            yield feature_distance(x, y, getattr(self, f"lin{number}"))

    def _stage(
        self, number: int, stage: Sequence[Convolution], x: Float[Tensor, "B C_in H_in W_in"]
    ) -> Float[Tensor, "B C H W"]:
        if number in self.backbone.pooled:
            x = F.max_pool2d(x, self.backbone.pool_kernel, stride=2)
        for layer in stage:
            weight, bias = (getattr(self, f"features_{layer.index}_{kind}") for kind in ("weight", "bias"))
            x = F.conv2d(x, weight, bias, layer.stride, layer.padding).relu_()
        return x


class _Distances(torch.autograd.Function):
    """`LPIPS.layers` summed, with the gradients at hand."""

    @staticmethod
    def forward(ctx: Any, lpips: LPIPS, x: Tensor, y: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[1:]
        chunk_pixels = CPU_CHUNK_PIXELS if x.device.type == "cpu" else GPU_CHUNK_PIXELS
        chunk = max(1, chunk_pixels // (x.shape[-2] * x.shape[-1]))
        parts = [_distances(lpips, *pair, wanted) for pair in zip(x.split(chunk), y.split(chunk))]
        distances, of_x, of_y = (
            torch.cat(tensors) if tensors[0] is not None else None for tensors in zip(*parts, strict=True)
        )
        ctx.save_for_backward(of_x, of_y)
        return distances

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        factor = upstream.view(-1, 1, 1, 1)
        return (None, *(None if gradient is None else factor * gradient for gradient in ctx.saved_tensors))


def _distances(
    lpips: LPIPS, x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "B 3 H W"], wanted: Sequence[bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Distances, and their gradients in `x` and `y` if wanted."""
    pictures = [image.detach().requires_grad_(needed) for image, needed in zip((x, y), wanted)]
    with torch.set_grad_enabled(any(wanted)):
        distances = torch.stack(list(lpips.layers(*pictures))).sum(dim=0)
        if not any(wanted):
            return distances, None, None
        inputs = [image for image, needed in zip(pictures, wanted) if needed]
        found = iter(torch.autograd.grad(GRADIENT_SCALE * distances.sum(), inputs))
    gradients = [next(found) / GRADIENT_SCALE if needed else None for needed in wanted]
    return distances.detach(), *gradients


def load_lpips(net: str = "vgg", files: Sequence[str | Path] | None = None) -> LPIPS:
    """LPIPS with published weights, from `files` or from torch hub's cache.

    Files hold the backbone as torchvision stores it (`features.N.weight`), the linear layers as the lpips package does
    (`linN.model.1.weight`), or both, also as a whole LPIPS module (`net.sliceK.N.weight`), at any depth.

    Raises MissingWeightsError if a file is not there and CheckpointError if one is damaged or lacks weights.
    """
    if files is None:
        files = _files_in_hub_folder(net)
    weights: dict[str, Tensor] = {}
    for path in files:
        weights |= _our_names(read_weights(Path(path)))
    shapes = BACKBONES[net].weights()
    wrong = [name for name, shape in shapes.items() if name not in weights or tuple(weights[name].shape) != shape]
    if wrong:
        first = wrong[0]
        found = f"of shape {list(weights[first].shape)}" if first in weights else "absent"
        raise CheckpointError(
            f"{', '.join(map(str, files)) or 'no file'}: LPIPS ({net}) needs {first} of shape {list(shapes[first])}, "
            f"which is {found}; {len(wrong)} of {len(shapes)} weights do not fit. Give the file of the backbone and "
            f"that of the linear layers, both of {net}"
        )
    return LPIPS(net, weights)


def _files_in_hub_folder(net: str) -> list[Path]:
    """The file of the linear layers and, if it holds no backbone, that of the backbone."""
    backbone = BACKBONES[net]
    linear, features = in_hub_folder(f"lpips_{net}.pth"), in_hub_folder(backbone.file)
    files = [path for path in (linear, features) if path is not None]
    is_whole = linear is not None and any(name.startswith("features.") for name in _our_names(read_weights(linear)))
    if linear is None or (features is None and not is_whole):
        raise missing(
            f"LPIPS ({net})",
            [
                (backbone.hashed_file, f"https://download.pytorch.org/models/{backbone.hashed_file}"),
                (
                    f"lpips_{net}.pth",
                    f"https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/{net}.pth",
                ),
            ],
        )
    return [linear] if is_whole else files


def _our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What LPIPS needs of a state dict, whatever module it belonged to."""
    weights = {}
    for name, value in state.items():
        if match := re.search(r"(?:^|\.)(?:features|net\.slice\d)\.(\d+)\.(weight|bias)$", name):
            weights[f"features.{match[1]}.{match[2]}"] = value
        elif match := re.search(r"(?:^|\.)lin(\d)\.model\.1\.weight$", name):
            weights[f"lin{match[1]}"] = value.flatten()
    return weights
