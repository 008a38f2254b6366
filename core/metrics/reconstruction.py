"""How close a reconstruction is to its picture, one value per image.

Pictures are (..., C, H, W) in [0, 1]; the leading axes (batch, or batch and frames) stay as they are, so a video gets
one value per frame. Everything is float64, which autocast leaves alone and in which variances survive E[x^2] - E[x]^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2
SSIM_CHUNK_VALUES = 1 << 17
"""Of a batch, that the CPU works on at once: what stays in its cache takes a quarter of the time."""


def mse(recon: Float[Tensor, "*B C H W"], image: Float[Tensor, "*B C H W"]) -> Float64[Tensor, "*B"]:
    """Squared error, averaged over pixels and channels.

    Raises ValueError if the shapes differ.
    """
    _require_same_shape(recon, image)
    return (recon.double() - image.double()).square().mean(dim=(-3, -2, -1))


def mixture_mse(
    image: Float[Tensor, "*B C H W"], rgb: Float[Tensor, "*B K C H W"], masks: Float[Tensor, "*B K H W"]
) -> Float64[Tensor, "*B"]:
    """`mse` of the picture that slots make together, the sum over slots of mask * rgb."""
    return mse((rgb.double() * masks.double().unsqueeze(-3)).sum(dim=-4), image)


def psnr(recon: Float[Tensor, "*B C H W"], image: Float[Tensor, "*B C H W"]) -> Float64[Tensor, "*B"]:
    """Peak signal-to-noise ratio in dB, -10 log10(mse) for a peak of 1; infinite for equal pictures.

    Raises ValueError if the shapes differ.
    """
    return -10 * mse(recon, image).log10()


def ssim(recon: Float[Tensor, "*B C H W"], image: Float[Tensor, "*B C H W"]) -> Float64[Tensor, "*B"]:
    """Structural similarity (Wang et al. 2004, equation 13), averaged over positions and channels.

    Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1, population covariances; only
    positions where the whole window lies inside the picture count. Equals scikit-image's `structural_similarity` with
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.

    Raises ValueError if the shapes differ or a side is shorter than the window.
    """
    _require_same_shape(recon, image)
    if min(image.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"ssim: expected pictures of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, found {tuple(image.shape[-2:])}"
        )
    *batch, channels, height, width = image.shape
    chunk = max(1, SSIM_CHUNK_VALUES // (channels * height * width)) if image.device.type == "cpu" else image.numel()
    pairs = zip(*(pictures.reshape(-1, channels, height, width).split(chunk) for pictures in (recon, image)))
    return torch.cat([_ssim(x.double(), y.double()) for x, y in pairs]).view(batch)


def reconstruction_scores(
    recon: Float[Tensor, "*B C H W"],
    image: Float[Tensor, "*B C H W"],
    percept_dist: Callable[[Float[Tensor, "N C H W"], Float[Tensor, "N C H W"]], Float[Tensor, N]] | None = None,
) -> dict[str, Float64[Tensor, "*B"]]:
    """Scores of every picture, as SlotDiffusion (Wu et al. 2023) reports them; pictures are in [-1, 1] or leave it.

    mse           squared error SUMMED over pixels and channels, of pictures in [0, 1]
    ssim, psnr    of pictures in [0, 1]; psnr is infinite for equal pictures
    percept_dist  of the unclamped pictures in [-1, 1], by the function given (LPIPS with VGG16 in the paper)

    Raises ValueError if the shapes differ.
    """
    unit_recon, unit_image = ((pictures.float() / 2 + 0.5).clamp(0, 1) for pictures in (recon, image))
    scores = {
        "mse": mse(unit_recon, unit_image) * math.prod(image.shape[-3:]),
        "ssim": ssim(unit_recon, unit_image),
        "psnr": psnr(unit_recon, unit_image),
    }
    if percept_dist is not None:
        distances = percept_dist(recon.flatten(0, -4), image.flatten(0, -4))
        scores["percept_dist"] = distances.double().view(image.shape[:-3])
    return scores


def _ssim(x: Float64[Tensor, "B C H W"], y: Float64[Tensor, "B C H W"]) -> Float64[Tensor, B]:
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _gaussian_mean(torch.stack([x, y, x * x, y * y, x * y]))
    variances = mean_xx - mean_x.square() + mean_yy - mean_y.square()
    covariance = mean_xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x.square() + mean_y.square() + SSIM_C1)
    contrast_and_structure = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    return (luminance * contrast_and_structure).mean(dim=(-3, -2, -1))


def _gaussian_mean(maps: Float64[Tensor, "... H W"]) -> Float64[Tensor, "... H_valid W_valid"]:
    """Gaussian-weighted mean around every position where the window fits, one axis after the other.

    Shifted additions take about a fifth of the time of a float64 convolution on the CPU.
    """
    offsets = range(SSIM_WINDOW)
    weights = [math.exp(-((offset - SSIM_WINDOW // 2) ** 2) / (2 * SSIM_SIGMA**2)) for offset in offsets]
    for axis in (-1, -2):
        length = maps.shape[axis] - SSIM_WINDOW + 1
        mean = torch.zeros_like(maps.narrow(axis, 0, length))
        for offset, weight in zip(offsets, weights):
            mean.add_(maps.narrow(axis, offset, length), alpha=weight / sum(weights))
        maps = mean
    return maps


def _require_same_shape(recon: Tensor, image: Tensor) -> None:
    # Broadcasting would turn a wrong shape into a plausible number.
    if recon.shape != image.shape:
        raise ValueError(f"recon and image must have one shape, found {tuple(recon.shape)} and {tuple(image.shape)}")
