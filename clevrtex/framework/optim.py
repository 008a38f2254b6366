"""Optimisers and learning-rate schedules from the benchmark's strings: `sgd-m0.9-nest`, `decay(10000,100000,0.5)`."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from core.training.schedules import Schedule, constant

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "sgd": torch.optim.SGD,
}
NO_SCHEDULE = ("", "none", "constant")
RATES = "decay(WARMUP,HALF_LIFE[,RATE]), warm(WARMUP), plateau, or '' for none"


def build_optimizer(model: nn.Module, text: str, learning_rate: float) -> torch.optim.Optimizer:
    """The optimiser `<name>[-m<momentum>][-nest]` over the parameter groups of `model`.

    A model may say `param_groups()`: dicts of `params`, a multiplier `lr` and, if need be, `other` options; parameters
    in none of them come last, at `learning_rate`. Raises ValueError on text of another form.
    """
    name, *options = text.split("-")
    if name not in OPTIMIZERS:
        near = difflib.get_close_matches(name.lower(), OPTIMIZERS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"--optim {text!r}: {name!r} is not one of {', '.join(OPTIMIZERS)}{hint}")
    settings: dict[str, float | bool] = {}
    for option in options:
        if option == "nest" and name == "sgd":
            settings["nesterov"] = True
        elif (match := re.fullmatch(r"m(\d*\.?\d+)", option)) and name in ("sgd", "rmsprop"):
            settings["momentum"] = float(match[1])
        else:
            raise ValueError(f"--optim {text!r}: {name} has no option {option!r}; m0.9 fits sgd and rmsprop, nest sgd")
    if name in ("adam", "sgd"):
        settings["fused"] = True
    return OPTIMIZERS[name](parameter_groups(model, learning_rate), lr=learning_rate, **settings)


def parameter_groups(model: nn.Module, learning_rate: float) -> list[dict]:
    """Every trained parameter once, in the groups of `model.param_groups()` if it has that, the others last."""
    groups = [
        {"params": list(group["params"]), "lr": group["lr"] * learning_rate, **group.get("other", {})}
        for group in (model.param_groups() if hasattr(model, "param_groups") else [])
    ]
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    others = [value for value in model.parameters() if value.requires_grad and id(value) not in grouped]
    return [*groups, {"params": others, "lr": learning_rate}] if others else groups


@dataclass
class Plateau:
    """Divides the learning rate by ten when a metric has not fallen for more than `patience` validations.

    It never goes below `lowest`. A metric has fallen if it is less than `best` by more than the share `threshold`; with
    the original's threshold of 1, which is a mistake in a call, nothing ever is. `state` goes into checkpoints.
    """

    learning_rate: float
    lowest: float = 5e-5
    patience: int = 3
    threshold: float = 1e-4
    state: dict[str, float] = field(default_factory=lambda: {"best": float("inf"), "waited": 0, "reductions": 0})

    def update(self, metric: float) -> None:
        state = self.state
        if metric < state["best"] * (1 - self.threshold):
            state |= {"best": metric, "waited": 0}
        elif state["waited"] < self.patience:
            state["waited"] += 1
        else:
            state |= {"waited": 0, "reductions": state["reductions"] + 1}

    def __call__(self, step: int) -> float:
        """The factor of the learning rate."""
        return min(1.0, max(0.1 ** self.state["reductions"], self.lowest / self.learning_rate))


def parse_rate(text: str | None) -> Schedule:
    """The factor of the learning rate at every step; constant for `plateau`, which looks at the metric instead.

    `decay(W,D[,r])` is min(t/W, 1) r^(t/D) with r = 0.5: the decay runs from step 0 on, the first step has rate 0.
    `warm(W)` is min(t/W, 1). Raises ValueError on text of another form (the original trained without a schedule).
    """
    if text is None or text in (*NO_SCHEDULE, "plateau"):
        return constant
    match = re.fullmatch(r"(decay|warm)\(([^()]*)\)", text.replace(" ", ""))
    try:
        kind, numbers = match[1], match[2].split(",")
        if int(numbers[0]) < 0 or any(float(number) <= 0 for number in numbers[1:]):
            raise ValueError("a warm-up below 0, or a half-life or rate that is not above 0")
        return _RATES[kind](*[int(number) for number in numbers[:2]], *[float(number) for number in numbers[2:]])
    except (TypeError, ValueError) as error:
        raise ValueError(f"--lr {text!r}: expected {RATES}") from error


def _decay(warmup: int, decay_steps: int, rate: float = 0.5) -> Schedule:
    return lambda step: _warm(warmup)(step) * rate ** (step / decay_steps)


def _warm(warmup: int) -> Schedule:
    return lambda step: min(step / warmup, 1.0) if warmup else 1.0


_RATES: dict[str, Callable[..., Schedule]] = {"decay": _decay, "warm": _warm}
