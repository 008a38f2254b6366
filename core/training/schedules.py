"""Learning-rate schedules as factors of the base rate."""

from collections.abc import Callable, Sequence
from math import cos, pi

Schedule = Callable[[int], float | Sequence[float]]
"""Step -> factor, or one for every parameter group."""


def constant(step: int) -> float:
    return 1.0


def warmup_then_decay(warmup: int, decay_steps: int, decay_rate: float = 0.5) -> Schedule:
    """Linear from 0 to 1 over `warmup` steps, then decay_rate ** (steps since / decay_steps).

    The first step after the warm-up still has factor 1, as in the original of EfficientMORL, whose decay starts one
    call late.
    """

    def factor(step: int) -> float:
        if step <= warmup:
            return step / warmup if warmup else 1.0
        if step == warmup + 1:
            return 1.0
        return decay_rate ** ((step - warmup) / decay_steps)

    return factor


def warmup_then_cosine(warmup: int, total: int, floor: float = 0.0) -> Schedule:
    """Linear from 0 to 1 over `warmup` steps, then half a cosine down to `floor` at step `total`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + cos(pi * progress))

    return factor
