"""Random draws of a training step that do not depend on the number of processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Noise = Callable[[str, tuple[int, ...]], Tensor]
"""Gives the draw of that name, standard normal unless the model says otherwise; the first axis is images."""


def exponential(*shape: int, generator: torch.Generator | None = None, device: torch.device) -> Tensor:
    """Exp(1) draws, above 5e-8; minus their logarithm is Gumbel noise. Five times as fast as `exponential_`."""
    return torch.rand(*shape, generator=generator, device=device).log_().neg_()


def derive_seed(*words: int) -> int:
    """A 63-bit seed from a few integers, well mixed (numpy's SeedSequence); the same on every platform."""
    low, high = np.random.SeedSequence([word & 0xFFFFFFFFFFFFFFFF for word in words]).generate_state(2)
    return (int(high) << 32 | int(low)) & 0x7FFFFFFFFFFFFFFF


@dataclass(frozen=True)
class ShardedNoise:
    """Draws keyed by (seed, step): each of `count` processes draws for the whole global batch and keeps its own images.

    A run on two processes with half the batch each therefore sees the numbers of a run on one.
    """

    seed: int
    index: int = 0
    count: int = 1

    def at(self, step: int, device: torch.device, sample: Callable[..., Tensor] = torch.randn) -> Noise:
        """The draws of `step`, by `sample`: torch.randn or `exponential`."""
        generator = torch.Generator(device).manual_seed(derive_seed(self.seed, step))

        def draw(name: str, shape: tuple[int, ...]) -> Tensor:
            images = shape[0]
            everywhere = sample(images * self.count, *shape[1:], generator=generator, device=device)
            return everywhere[self.index * images : (self.index + 1) * images]

        return draw

    def part(self, index: int, count: int) -> "ShardedNoise":
        """The draws of the images of part `index`, where this process's images go through in `count` equal parts."""
        return ShardedNoise(self.seed, self.index * count + index, self.count * count)


def standard_normal(device: torch.device) -> Noise:
    """Draws from the global generator of `device`."""
    return lambda name, shape: torch.randn(shape, device=device)


def standard_exponential(device: torch.device) -> Noise:
    """Exp(1) draws from the global generator of `device`."""
    return lambda name, shape: exponential(*shape, device=device)


@dataclass(frozen=True)
class ImageNoise:
    """Draws keyed by (seed, image), in place of a ShardedNoise: what a validation finds depends on no batch.

    `indices` are the images of the batch; the first axis of a draw is they, or so many rows of each.
    """

    seed: int
    indices: Sequence[int]

    def at(self, step: int, device: torch.device, sample: Callable[..., Tensor] = torch.randn) -> Noise:
        """The draws of these images, the same at every step."""
        cpu = torch.device("cpu")
        generators = [torch.Generator().manual_seed(derive_seed(self.seed, index)) for index in self.indices]

        def draw(name: str, shape: tuple[int, ...]) -> Tensor:
            rows = shape[0] // len(generators)
            drawn = [sample(rows, *shape[1:], generator=generator, device=cpu) for generator in generators]
            return torch.cat(drawn).to(device)

        return draw


def seeded_noise(seed: int, device: torch.device) -> Callable[[range], Noise]:
    """Draws keyed by (seed, image): an image's result is the same in any batch."""

    def of_images(indices: range) -> Noise:
        generators = [torch.Generator().manual_seed(derive_seed(seed, index)) for index in indices]

        def draw(name: str, shape: tuple[int, ...]) -> Tensor:
            return torch.stack([torch.randn(shape[1:], generator=generator) for generator in generators]).to(device)

        return draw

    return of_images
