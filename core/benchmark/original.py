"""What the run's own paper would print of the same model: offered by the paper, found by its name.

A paper that takes part has a module `<paper>.benchmark` with `NEEDS_MASKS`, whether it scores nothing without true
masks, and one function,

    original_scores(subject, data, root, *, split, frames, limit, batch_size) -> (dict of scores, words)

which calls the paper's own evaluation on the data string `data`, at the size and with the noise that this evaluation
uses, and says in words how its figures differ from those of the protocol.
"""

import importlib
import math
from pathlib import Path
from typing import Any

from core.benchmark.subjects import Subject
from core.data.spec import DataSpec


def original_scores(subject: Subject, data: str, root: Path | None, **settings: Any) -> dict[str, Any]:
    """`scores` and `difference` of the subject's paper on these data; NaN becomes None."""
    try:
        module = importlib.import_module(f"{subject.paper}.benchmark")
    except ModuleNotFoundError as error:
        raise ValueError(f"--as-original: paper {subject.paper!r} has no module {subject.paper}.benchmark") from error
    if module.NEEDS_MASKS and not DataSpec.parse(data).has_masks:
        return {"scores": {}, "difference": f"{subject.paper} scores nothing without true masks"}
    scores, difference = module.original_scores(subject, data, root, **settings)
    return {
        "scores": {name: value if math.isfinite(value) else None for name, value in scores.items()},
        "difference": difference,
    }


def at_size_of(subject: Subject, data: str) -> str:
    """The data string with the size that the subject sees, as its own paper reads it."""
    if DataSpec.parse(data).size is not None:
        return data
    return f"{data}-({subject.size[0]},{subject.size[1]})"
