"""Quantities of GNM and SPACE that change linearly while they train."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """`start` up to `first_step`, `end` from `last_step` on, linear between them."""

    first_step: int
    last_step: int
    start: float
    end: float

    def __call__(self, step: int) -> float:
        share = (step - self.first_step) / (self.last_step - self.first_step)
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)
