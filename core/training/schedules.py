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


def warmup_then_exponential(warmup: int, decay_steps: int, decay_rate: float) -> Schedule:
    """Linear from 0 to 1 over `warmup` steps, then decay_rate ** (steps since / decay_steps) (Sajjadi et al. 2022)."""

    def factor(step: int) -> float:
        return step / warmup if step < warmup else decay_rate ** ((step - warmup) / decay_steps)

    return factor


def warmup_then_cosine(warmup: int, total: int, floor: float = 0.0) -> Schedule:
    """Linear from 0 to 1 over `warmup` steps, then half a cosine down to `floor` at step `total`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + cos(pi * progress))

    return factor


def cosine_with_restarts(
    cycle: int,
    warmup: float,
    floor: float | Sequence[float] = 0.0,
    cycle_mult: float = 1.0,
    gamma: float = 1.0,
    restarts: bool = True,
) -> Schedule:
    """From `floor` linearly to the peak over `warmup` steps, by half a cosine back to it at step `cycle`, and again.

    The schedule of SlotFormer's trainer. `floor` is a share of the base rate, one for all parameter groups or one for
    each; `warmup` may be a fraction of a step. The cosine of each cycle is `cycle_mult` times as long as that before
    (rounded down), its peak `gamma` times as high. Step 0 has the floor, also without a warm-up. Without `restarts` it
    stays at the floor after the first cycle.
    """

    def share(step: int) -> tuple[float, float]:
        """The peak of the step's cycle, and how far from floor to peak it is."""
        position, length, peak = float(step), float(cycle), 1.0
        if step == 0 or (step >= cycle and not restarts):
            return peak, 0.0
        while position >= length:
            position -= length
            length = int((length - warmup) * cycle_mult) + warmup
            peak *= gamma
        if position < warmup:
            return peak, position / warmup
        return peak, 0.5 * (1 + cos(pi * (position - warmup) / (length - warmup)))

    def factor(step: int) -> float | Sequence[float]:
        peak, part = share(step)
        if isinstance(floor, Sequence):
            return [low + (peak - low) * part for low in floor]
        return floor + (peak - floor) * part

    return factor
