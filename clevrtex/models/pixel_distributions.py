"""Discretised logistic distributions of pixels (Salimans et al. 2017, PixelCNN++): colours are bins of [0, 1].

All take what a decoder makes of a pixel, unbounded, and mean intensities in [-1, 1], to which images are mapped.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LEAST_LOG_SCALE = -7.0
OUTERMOST = 0.999
BRIGHT_IN_ORIGINAL = 0.99
"""Which the second brightest of 256 colours exceeds, so that probabilities sum to more than one."""


@dataclass(frozen=True)
class DiscretisedLogistic:
    """A logistic distribution per pixel and channel: the first half of `parameters` are means, the rest log scales.

    `as_original` gives the two brightest colours all that is brighter.
    """

    parameters: Float[Tensor, "B C2 H W"]
    as_original: bool = False

    def log_prob(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Log probability of the bins of width 2/255 around the pixels of `image` in [0, 1]."""
        mean, log_scale = self.parameters.chunk(2, dim=1)
        return log_bin_probability(2 * image - 1, mean, log_scale.clamp(min=LEAST_LOG_SCALE), 256, self.as_original)

    @property
    def mean(self) -> Float[Tensor, "B C H W"]:
        return (self.parameters.chunk(2, dim=1)[0] + 1) / 2


@dataclass(frozen=True)
class DiscretisedLogisticMixture:
    """M logistic distributions of a pixel's colour, in which green depends on red, and blue on both.

    Of the 10 M channels of `parameters` the first M are the mixture's logits; the rest, as [3, 3 M], are means, log
    scales and the coefficients' arguments of a tanh. `as_original` takes the mean blue of the original, which adds the
    coefficient of red to red in place of multiplying it, and gives the two brightest colours all that is brighter.
    """

    parameters: Float[Tensor, "B M10 H W"]
    bits: int = 8
    as_original: bool = False

    def log_prob(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        """Log probability of the colours of `image` in [0, 1], `2 ** bits` bins to a channel."""
        logits, mean, log_scale, coefficients = self._parts()
        pixels = (2 * image - 1)[:, :, None]
        red, green, _ = pixels.unbind(dim=1)
        of_red, blue_of_red, blue_of_green = coefficients.unbind(dim=1)
        shift = torch.stack((torch.zeros_like(of_red), of_red * red, blue_of_red * red + blue_of_green * green), dim=1)
        log_probability = log_bin_probability(pixels, mean + shift, log_scale, 2**self.bits, self.as_original)
        return torch.logsumexp(log_probability.sum(dim=1) + logits.log_softmax(dim=1), dim=1, keepdim=True)

    @property
    def mean(self) -> Float[Tensor, "B 3 H W"]:
        """Colours, in [0, 1], of the components' mean parameters."""
        logits, mean, _, coefficients = self._parts()
        weights = logits.softmax(dim=1)[:, None]
        means, coefficients = (mean * weights).sum(dim=2), (coefficients * weights).sum(dim=2)
        red = means[:, 0].clamp(-1, 1)
        green = (means[:, 1] + coefficients[:, 0] * red).clamp(-1, 1)
        of_red = coefficients[:, 1] + red if self.as_original else coefficients[:, 1] * red
        blue = (means[:, 2] + of_red + coefficients[:, 2] * green).clamp(-1, 1)
        return (torch.stack((red, green, blue), dim=1) + 1) / 2

    def masked(self, mask: Float[Tensor, "B 1 H W"]) -> "DiscretisedLogisticMixture":
        """Pixels that are black, and less likely and certain, where `mask` is small."""
        logits, rest = self.parameters.tensor_split((self.parameters.shape[1] // 10,), dim=1)
        mean, log_scale, coefficients = rest.unflatten(1, (3, -1)).chunk(3, dim=2)
        of_colours = mask[:, :, None]
        parts = (of_colours * (mean + 1) - 1, log_scale + of_colours.log(), of_colours * coefficients)
        rest = torch.cat(parts, dim=2).flatten(1, 2)
        return replace(self, parameters=torch.cat((logits + mask.log(), rest), dim=1))

    def _parts(
        self,
    ) -> tuple[
        Float[Tensor, "B M H W"], Float[Tensor, "B 3 M H W"], Float[Tensor, "B 3 M H W"], Float[Tensor, "B 3 M H W"]
    ]:
        logits, rest = self.parameters.tensor_split((self.parameters.shape[1] // 10,), dim=1)
        mean, log_scale, coefficients = rest.unflatten(1, (3, -1)).chunk(3, dim=2)
        return logits, mean, log_scale.clamp(min=LEAST_LOG_SCALE), coefficients.tanh()


def log_bin_probability(
    pixels: Float[Tensor, "*#shape"],
    mean: Float[Tensor, "*shape"],
    log_scale: Float[Tensor, "*shape"],
    num_bins: int,
    as_original: bool,
) -> Float[Tensor, "*shape"]:
    """Log probability of the bin around each of `pixels` in [-1, 1]; the outermost bins reach to infinity.

    Where that probability is too small for float32, the density at the bin's centre times its width stands for it.
    """
    centred, inverse = pixels - mean, (-log_scale).exp()
    half_width = 1 / (num_bins - 1)
    upper, lower, middle = inverse * (centred + half_width), inverse * (centred - half_width), inverse * centred
    inside = upper.sigmoid() - lower.sigmoid()
    density = middle - log_scale - 2 * F.softplus(middle) + torch.as_tensor(2 * half_width).log()
    log_inside = torch.where(inside > 1e-5, inside.clamp(min=1e-10).log(), density)
    bright = pixels > (BRIGHT_IN_ORIGINAL if as_original else OUTERMOST)
    log_inside = torch.where(bright, F.logsigmoid(-lower), log_inside)
    return torch.where(pixels < -OUTERMOST, F.logsigmoid(upper), log_inside)
