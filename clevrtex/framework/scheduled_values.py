"""Attributes of a model that follow schedules while it trains."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from clevrtex.framework.schedules import Schedule, Value, parse
from core.data.loader import Batch


class ScheduledValues:
    """Sets attributes of a model from schedule strings: those with `itr_` by the step, others by the epoch.

    Raises ValueError for a string that is no schedule.
    """

    def __init__(self, texts: Mapping[str, str], steps_per_epoch: int, max_steps: int):
        self.schedules: dict[str, Schedule] = {name: parse(str(text)) for name, text in texts.items()}
        self.steps_per_epoch = steps_per_epoch
        self.max_steps = max_steps

    def set(self, model: nn.Module, step: int) -> None:
        """Give the attributes their values for the step that comes."""
        epochs = max(1, round(self.max_steps / self.steps_per_epoch))
        for name, schedule in self.schedules.items():
            if schedule.per_iteration:
                value = schedule.value(step, self.max_steps)
            else:
                value = schedule.value(step // self.steps_per_epoch, epochs)
            if value is not None:
                _assign(model, name, value)

    def before(self, model: nn.Module, first_step: int, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; the attributes are set before each of them is handed out."""
        for step, batch in enumerate(batches, start=first_step):
            self.set(model, step)
            yield batch

    def numbers(self, model: nn.Module) -> dict[str, Tensor | float]:
        """The values that can be drawn as curves."""
        values = {name: getattr(model, name) for name in self.schedules}
        return {
            name: value.float().mean() if isinstance(value, Tensor) else float(value)
            for name, value in values.items()
            if isinstance(value, Tensor | int | float)
        }


def _assign(model: nn.Module, name: str, value: Value) -> None:
    """A buffer keeps its place and shape."""
    if not hasattr(model, name):
        raise AttributeError(f"{type(model).__name__} has no {name!r}, which a schedule is to set")
    current = getattr(model, name)
    if isinstance(current, Tensor):
        with torch.no_grad():
            current.copy_(torch.as_tensor(value, dtype=current.dtype).expand_as(current))
    else:
        setattr(model, name, value)
