"""A running average of weights (Polyak and Juditsky 1992), which samples better than the weights themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage(nn.Module):
    """Exponential average of the parameters of `model` that are trained, beginning at what they are.

    It is of these parameters for good: it can be put in also where they are frozen later.

    After n updates it moves by 1 - min(`decay`, (1 + n) / (10 + n)) of the way: an average of few weights forgets fast.
    Its buffers are named as the parameters, without dots.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999):
        super().__init__()
        self.register_buffer("decay", torch.tensor(decay, dtype=torch.float32))
        self.register_buffer("num_updates", torch.tensor(0, dtype=torch.int32))
        self.names = [name for name, value in model.named_parameters() if value.requires_grad]
        for name in self.names:
            self.register_buffer(_buffer_name(name), model.get_parameter(name).detach().clone())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Once after every step of the optimiser."""
        self.num_updates += 1
        share = 1 - torch.minimum(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name in self.names:
            self.get_buffer(_buffer_name(name)).lerp_(model.get_parameter(name), share)

    @contextmanager
    def scope(self, model: nn.Module) -> Iterator[None]:
        """Inside, `model` has the average for its weights; they are back afterwards, whatever happens."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    def _exchange(self, model: nn.Module) -> None:
        """Only names change places: no weight is copied."""
        for name in self.names:
            value, average = model.get_parameter(name), self.get_buffer(_buffer_name(name))
            value.data, average.data = average.data, value.data


def _buffer_name(parameter: str) -> str:
    return parameter.replace(".", "")
