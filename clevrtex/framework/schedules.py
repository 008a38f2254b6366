"""Values that change during training, from strings: `itr_lin(50000,0.5,0.15)`, `switch(10:0.1:lin(20,1,2))`.

| string                               | value at (step, total)                                                        |
|--------------------------------------|-------------------------------------------------------------------------------|
| `lin(d,a,b)`, `linspace(d,a,b)`      | from a to b in d points, then b; a float d is that share of the total         |
| `switch(d:S1:S2)`, `to(d:S1:S2)`     | S1 for d steps, then S2, which starts to count there                          |
| `set(text)`                          | the text                                                                      |
| a number or a tuple of numbers       | itself                                                                        |

Steps are epochs, or optimiser steps with `itr_` in front.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

Value = float | int | str | tuple[float | int, ...]
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


@dataclass(frozen=True)
class Schedule:
    """`value(step, total)`; None means that nothing changes."""

    text: str
    value: Callable[[int, int], Value | None]
    per_iteration: bool = False


def parse(text: str) -> Schedule:
    """The schedule that `text` describes. Raises ValueError."""
    stripped = text.strip()
    per_iteration = stripped.startswith("itr_")
    inner = stripped.removeprefix("itr_")
    value = _parse(inner)
    if value is None or (per_iteration and not re.match(r"lin|switch|to\(", inner)):
        raise ValueError(
            f"schedule {text!r}: expected lin(d,a,b), switch(d:S1:S2), set(text), a number or a tuple of numbers; "
            "itr_lin or itr_switch to count optimiser steps"
        )
    return Schedule(stripped, value, per_iteration)


def _parse(text: str) -> Callable[[int, int], Value | None] | None:
    text = text.strip()
    if match := re.fullmatch(rf"lin(?:space)?\(\s*({NUMBER})\s*,\s*({NUMBER})\s*,\s*({NUMBER})\s*\)", text):
        return _linear(_number(match[1]), float(match[2]), float(match[3]))
    if match := re.fullmatch(rf"(?:to|switch)\(\s*({NUMBER})\s*:([^:]*):([^:]*)\)", text):
        before, after = _parse(match[2]), _parse(match[3])
        return _switch(_number(match[1]), before, after) if before and after else None
    if match := re.fullmatch(r"set\((.*)\)", text):
        return lambda step, total: match[1]
    if match := re.fullmatch(rf"\(?\s*({NUMBER}(?:\s*,\s*{NUMBER})*)\s*,?\s*\)?", text):
        numbers = tuple(_number(number) for number in match[1].split(","))
        if len(numbers) == 1 and not text.startswith("("):
            return lambda step, total: numbers[0]
        return (lambda step, total: numbers) if text.startswith("(") and text.endswith(")") else None
    return None


def _number(text: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _points(duration: float | int, total: int) -> int:
    return duration if isinstance(duration, int) else int(duration * total)


def _linear(duration: float | int, first: float, last: float) -> Callable[[int, int], Value | None]:
    def value(step: int, total: int) -> float:
        points = _points(duration, total)
        if duration <= 0 or points <= 1:
            return first
        return first + (last - first) * min(step, points - 1) / (points - 1)

    return value


def _switch(
    duration: float | int, before: Callable[[int, int], Value | None], after: Callable[[int, int], Value | None]
) -> Callable[[int, int], Value | None]:
    def value(step: int, total: int) -> Value | None:
        points = _points(duration, total)
        if duration <= 0:
            return None
        return before(step, points) if step <= points else after(step - points, total - points)

    return value
