"""Galleries of trained models: samples of a data set, opened, taken apart and drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.benchmark.evaluation import truth_of
from core.benchmark.protocol import Protocol, scores_of
from core.benchmark.resizing import resized
from core.benchmark.subjects import Subject
from core.data.loader import Batch, BatchSource, to_device
from core.data.spec import DataSpec
from core.report.gallery import MOST_FRAMES, draw_sample

SHOWN_SCORES = ("fg_ari", "ari", "miou", "mse")


def draw_gallery(
    subject: Subject,
    spec: DataSpec,
    count: int,
    *,
    split: str = "test",
    root: str | Path | None = None,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """`count` samples, evenly spread over the split, as the page shows them; `progress` is called after each.

    Of a video the first frames are shown, of a scene all views. Raises ValueError where the model cannot see such data,
    DataError where they are missing, CheckpointError where it has diverged.
    """
    if reason := subject.refusal(spec.kind):
        raise ValueError(reason)
    source = open_source(spec, split, root, as_pictures=spec.kind == "views" and subject.sees != "views")
    samples = []
    for number in spread_numbers(len(source), count):
        batch = one_sample(source, number, spec, subject.device)
        found = subject.decompose(batch, [number])
        subject.require_finite(found, [f"sample {number}"])
        video, labels, overlap = truth_of(batch)
        scores = scores_of(Protocol(), found, video, labels, overlap, None)
        drawn = draw_sample(number, resized(video[0], subject.size), found, None if labels is None else labels[0])
        samples.append(drawn | {"scores": {name: float(scores[name]) for name in SHOWN_SCORES if name in scores}})
        progress()
    remark = f"{len(samples)} of {len(source):,} samples of the split {split!r}, evenly spread."
    if samples[0]["frames"] > 1:
        views = subject.sees == "views"
        remark += " The views of a scene are its frames." if views else f" At most {MOST_FRAMES} frames of each."
    return {"remark": remark, "hasRgb": samples[0]["rgb"] is not None, "samples": samples}


def open_source(spec: DataSpec, split: str, root: str | Path | None, as_pictures: bool) -> BatchSource:
    """The set as what it is, or scenes of views as pictures for a model that knows no cameras."""
    return spec.open(split, root, masks=spec.has_masks) if as_pictures else spec.open_whole(split, root)


def spread_numbers(size: int, count: int) -> list[int]:
    """At most `count` different numbers below `size`, evenly spaced from 0 on."""
    count = min(count, size)
    return [number * size // count for number in range(count)]


def one_sample(source: BatchSource, number: int, spec: DataSpec, device: torch.device) -> Batch:
    """A batch of one sample on the device, of a video the first frames; recoloured as the data string says."""
    batch = spec.recolour(to_device(source.read(np.array([number])), device))
    if "video" not in batch:
        return batch
    framed = ("video", "mask", "overlap")
    return {key: value[:, :MOST_FRAMES] if key in framed else value for key, value in batch.items()}
