"""Scores of the segmentations that slots give."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from torch import Tensor

from core.data.loader import Batch, BatchSource
from core.files import replacing
from slotformer.framework.extraction import Trained
from slotformer.framework.params import BaseParams

TITLES = {"fARI": "fari", "miou": "miou", "mbo": "mbo"}
"""Of what is printed."""


def results_file(weight: Path, name: str) -> Path:
    """Beside the weight, for the configuration `name`. Raises ValueError where it cannot be written."""
    results = weight.with_name(f"{weight.stem}-seg-{name}.json")
    if not os.access(results.parent, os.W_OK):
        raise ValueError(f"{results.parent}: results cannot be written there. Copy the weight to a folder of yours")
    return results


def named_data(params: BaseParams) -> dict[str, str]:
    """Which data set was scored: of MOVi also the level, and of a folder where it is."""
    if params.dataset == "folder":
        return {"dataset": params.dataset, "data_root": params.data_root}
    level = params.movi_level if params.dataset in ("movi", "steve_movi") else None
    return {"dataset": f"{params.dataset} {level}" if level else params.dataset}


def score_all(
    trained: Trained, source: BatchSource, batch_size: int, scores_of: Callable[[Batch], dict[str, Tensor]], what: str
) -> dict[str, np.ndarray] | None:
    """`scores_of` every sample, in their order, in all processes; None if a signal stopped it."""
    rows: list[tuple[int, dict[str, float]]] = []

    def score(batch: Batch, indices: np.ndarray) -> None:
        values = {name: of.tolist() for name, of in scores_of(batch).items()}
        rows.extend(
            (index, {name: of[place] for name, of in values.items()}) for place, index in enumerate(indices.tolist())
        )

    if not trained.go_through(source, range(len(source)), batch_size, score, f"{what} segmented"):
        return None
    gathered = gather_object(rows) if trained.accelerator.num_processes > 1 else rows
    ordered = [scores for _, scores in sorted(gathered, key=lambda row: row[0])]
    return {name: np.array([scores[name] for scores in ordered]) for name in ordered[0]}


def means_of(scores: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Over the samples that have a value: those without objects have none of some scores."""
    valid = {name: values[~np.isnan(values)] for name, values in scores.items()}
    return {name: float(values.mean()) if len(values) else None for name, values in valid.items()}


def print_scores(means: Mapping[str, float | None], prefix: str = "") -> None:
    """A line for each of `TITLES`, in percent."""
    for title, score in TITLES.items():
        value = means[f"{prefix}{score}"]
        print(f"{prefix}{title}: {'none' if value is None else f'{100 * value:.2f}'}")


def write_scores(results: Path, described: Mapping[str, Any]) -> None:
    """Write them and say where."""
    with replacing(results) as partial:
        partial.write_text(json.dumps(described, indent=2) + "\n")
    print(f"all scores in {results}")
