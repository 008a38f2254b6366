"""The benchmark's experiments by the names of their scripts; nothing here imports torch."""

import difflib
import importlib
from pathlib import Path

from clevrtex.framework.options import Hyperparameters

EXPERIMENTS = tuple(sorted(path.stem for path in (Path(__file__).parents[1] / "experiments").glob("*.py")))


def experiment_class(name: str) -> type[Hyperparameters]:
    """The hyperparameters of `clevrtex/experiments/<name>.py`. Raises ValueError with the nearest name."""
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(name, EXPERIMENTS, 1, cutoff=0)[0]
        raise ValueError(f"no experiment {name!r}; did you mean {near!r}? Known are {', '.join(EXPERIMENTS)}")
    module = importlib.import_module(f"clevrtex.experiments.{name}")
    own = (value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__)
    return next(value for value in own if isinstance(value, type) and issubclass(value, Hyperparameters))
