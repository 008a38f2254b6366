"""Convolutions with norm and ReLU, padded so that only the stride changes the size (for odd kernels)."""

from typing import Literal

from torch import nn

Norm = Literal["", "bn", "gn", "in"]
"""None, batch norm, group norm of 16 groups, instance norm."""

_NORMS = {"bn": nn.BatchNorm2d, "gn": lambda channels: nn.GroupNorm(16, channels), "in": nn.InstanceNorm2d}


def _block(convolution: nn.Module, norm: Norm, channels: int, relu: bool) -> nn.Sequential:
    if norm and norm not in _NORMS:
        raise ValueError(f"norm={norm!r} is not one of '', 'bn', 'gn', 'in'")
    norms = [_NORMS[norm](channels)] if norm else []
    return nn.Sequential(convolution, *norms, *([nn.ReLU(inplace=True)] if relu else []))


def conv_block(
    before: int, channels: int, kernel: int, stride: int = 1, norm: Norm = "", relu: bool = True
) -> nn.Sequential:
    """A convolution without a bias where the norm has its own or removes it."""
    bias = norm not in ("bn", "in")
    convolution = nn.Conv2d(before, channels, kernel, stride, padding=kernel // 2, bias=bias)
    return _block(convolution, norm, channels, relu)


def transposed_block(before: int, channels: int, kernel: int, stride: int = 1, norm: Norm = "") -> nn.Sequential:
    """A transposed convolution that multiplies the size by its stride."""
    options = {"padding": kernel // 2, "output_padding": stride - 1, "bias": norm not in ("bn", "in")}
    return _block(nn.ConvTranspose2d(before, channels, kernel, stride, **options), norm, channels, relu=True)
