"""Sizes and schedules of SPACE, and how its decoders enlarge."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from clevrtex.models.annealing import Ramp
from clevrtex.models.celu_layers import Layer, convolution, subpixel

PRESENCE_PRIOR = Ramp(4000, 10_000, 0.1, 0.01)
SCALE_PRIOR = Ramp(10_000, 20_000, -1.0, -2.0)
TEMPERATURE = Ramp(0, 10_000, 2.5, 2.5)


@dataclass(frozen=True)
class Sizes:
    """Of latent variables, and channels of what infers them."""

    what: int = 32
    foreground_features: int = 128
    mask: int = 32
    component: int = 32
    background_features: int = 64
    mask_hidden: int = 64
    component_hidden: int = 64


@dataclass(frozen=True)
class Schedules:
    """By steps of training. `scale_prior` is the mean of an object's size before the sigmoid.

    Until `fixed_alpha_end`, from step 1 on, the likelihood takes the objects' share in every pixel as `fixed_alpha`.
    """

    presence_prior: Ramp = PRESENCE_PRIOR
    scale_prior: Ramp = SCALE_PRIOR
    scale_prior_std: float = 0.1
    temperature: Ramp = TEMPERATURE
    boundary_end: int = 10**8
    fixed_alpha_end: int = 0
    fixed_alpha: float = 0.1

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Schedules":
        """From builtin values, in which a ramp is its four numbers; what is not among them is as published."""
        return cls(**{name: Ramp(*value) if isinstance(value, Sequence) else value for name, value in values.items()})


PUBLISHED_SIZES = Sizes()
PUBLISHED_SCHEDULES = Schedules()


def scales_to(side: int, published: Sequence[int]) -> list[int]:
    """The `published` enlargements, each 2 or 4, with as few changes as make their product `side`."""
    scales = list(published)
    for index in reversed(range(len(scales))):
        if math.prod(scales) > side:
            scales[index] = 2
        elif math.prod(scales) < side:
            scales[index] = 4
    return scales


def enlarging_layers(inputs: int, layers: Sequence[Layer]) -> list[nn.Module]:
    """A vector as a map of one pixel, then layers of which each enlarges it and convolves the result."""
    first = Layer(256, groups=16)
    modules = convolution(inputs, first)
    inputs = first.channels
    for layer in layers:
        modules += subpixel(inputs, layer)
        modules += convolution(layer.channels, Layer(layer.channels, 3, 1, layer.groups))
        inputs = layer.channels
    return modules
