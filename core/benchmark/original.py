"""What the run's own paper would print of the same model: offered by the paper, found by its name.

A paper that takes part has a module `<paper>.benchmark` with `NEEDS_MASKS`, whether it scores nothing without true
masks, and one function,

    original_scores(subject, asked) -> (dict of scores, words)

which calls the paper's own evaluation, at the size and with the noise that this evaluation uses, and says in words how
its figures differ from those of the protocol.
"""

import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.benchmark.subjects import Subject
from core.data.spec import DataSpec


@dataclass(frozen=True)
class Asked:
    """What is to be scored: one split of the data string `data` below the folder `root` (None: the usual ones).

    frames: the first ones of every video, None for all. limit: samples, None for all. batch_size: at a time.
    """

    data: str
    root: Path | None
    split: str
    frames: int | None
    limit: int | None
    batch_size: int


def original_scores(subject: Subject, asked: Asked) -> dict[str, Any]:
    """`scores` and `difference` of the subject's paper on these data; NaN becomes None."""
    try:
        module = importlib.import_module(f"{subject.paper}.benchmark")
    except ModuleNotFoundError as error:
        raise ValueError(f"--as-original: paper {subject.paper!r} has no module {subject.paper}.benchmark") from error
    if module.NEEDS_MASKS and not DataSpec.parse(asked.data).has_masks:
        return {"scores": {}, "difference": f"{subject.paper} scores nothing without true masks"}
    scores, difference = module.original_scores(subject, asked)
    return {
        "scores": {name: value if math.isfinite(value) else None for name, value in scores.items()},
        "difference": difference,
    }


def at_size_of(subject: Subject, data: str) -> str:
    """The data string with the size that the subject sees, as its own paper reads it."""
    if DataSpec.parse(data).size is not None:
        return data
    return f"{data}-({subject.size[0]},{subject.size[1]})"
