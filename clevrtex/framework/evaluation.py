"""Scores and pictures of trained models on held-out data, as the benchmark's notebook computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Integer, UInt8
from torch import Tensor
from tqdm import tqdm

from clevrtex.framework.pictures import GREY, colour, to_bytes
from clevrtex.framework.trained import Trained
from core.data.clevrtex import ClevrTex
from core.data.loader import Batch, BatchSource, evaluation_batches
from core.data.spec import DataSpec, MissingData
from core.data.spec.sources import Coloured
from core.metrics.clevrtex import AS_DEFINED, AS_ORIGINAL, PROTOCOL, ClevrTexEvaluator, Metadata
from core.nn.noise import derive_seed, seeded_noise
from core.types import Decomposition
from core.viz.panels import image_grid

SPLIT = "test"
VARIANTS = ("full", "outd", "camo", "pbg", "vbg", "grassbg")
BENCHMARK = {"clevrtex": (*(f"clevrtex:{variant}" for variant in VARIANTS), "clevr")}
"""What a model is evaluated on that was trained on a set of that name, besides the set itself."""
SHEET_IMAGES = 8
SHEET_COLUMNS = ("input", "truth", "prediction", "reconstruction")
"""Of `sheet`, before the slots."""


def default_data(trained_on: str) -> list[str]:
    """Data sets, without flags, for a model that was trained on the data of that string; its own are the first.

    Before them is the string itself, if its flags do more to pictures than crop and resize them.
    """
    spec = DataSpec.parse(trained_on)
    is_plain = replace(spec, crop=False, size=None) == DataSpec(sets=spec.sets)
    names: dict[str, None] = {} if is_plain else {trained_on: None}
    for name, variant in spec.sets:
        own = f"{name}:{variant}" if variant else name
        names |= dict.fromkeys((own, *BENCHMARK.get(name, ())))
    return list(names)


def framed_as(text: str, trained: Trained) -> str:
    """A data string with the size that the model takes; a set without any flag is also cropped if it was in training.

    Raises ValueError for a string that cannot be understood, or that says another size.
    """
    spec = DataSpec.parse(text)
    height, width = trained.image_size
    if spec.size not in (None, trained.image_size):
        raise ValueError(f"--data {text!r}: {trained.checkpoint} takes ({height},{width}). Leave the size out")
    if "-" not in text and DataSpec.parse(trained.data).crop:
        text += "-crop"
    return text if spec.size else f"{text}-({height},{width})"


def open_data(texts: Sequence[str] | None, trained: Trained, root: str | None = None) -> dict[str, BatchSource]:
    """The test splits of those data strings, or of those of `default_data` that are on disk; others are printed.

    root: folder of the data; else the one of the training.

    Raises MissingData for a set that was asked for and is not there, or if none is; otherwise as `DataSpec.open`.
    """
    sources: dict[str, BatchSource] = {}
    missing: dict[str, MissingData] = {}
    for text in texts or default_data(trained.data):
        framed = framed_as(text, trained)
        try:
            sources[framed] = DataSpec.parse(framed).open(SPLIT, root or trained.data_root, masks=True)
        except MissingData as error:
            missing[text] = error
    if missing and (texts or not sources):
        raise next(iter(missing.values()))
    if missing:
        print(f"left out, since they are not on disk: {', '.join(missing)}")
    return sources


def evaluate(
    trained: Trained,
    data: str,
    source: BatchSource,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    as_original: bool = False,
) -> tuple[dict[str, Any], UInt8[Tensor, "3 _ _"]]:
    """Statistics of all pictures of `source`, or of the first `limit`, and the `sheet` of the first eight.

    Every picture has noise of its own, as in a validation: a function of the run's seed and the picture's number.
    Statistics are those of `ClevrTexEvaluator.results`, ready for JSON, told apart by what is in the scenes where the
    set describes them.

    batch_size: pictures at a time, by default as many as in training.
    as_original: also the statistics that the original computes otherwise, as `mSC_original`, ...
    """
    spec = DataSpec.parse(data)
    batch_size = batch_size or trained.batch_size
    size = min(limit or len(source), len(source))
    evaluators = [
        ClevrTexEvaluator(masks_have_background=trained.masks_have_background, as_original=original)
        for original in ((False, True) if as_original else (False,))
    ]
    device = next(trained.model.parameters()).device
    describe = scene_descriptions(source, spec)
    rows: list[Tensor] = []
    noise = seeded_noise(derive_seed(trained.seed, 3), device)
    begin = 0
    with tqdm(total=size, desc=str(spec), unit="img", leave=False) as bar:
        for batch in map(spec.recolour, evaluation_batches(source, batch_size, device, size)):
            images = range(begin, begin + len(batch["image"]))
            with torch.no_grad():
                prediction = trained.model.decompose(batch, noise(images))
            scenes = [describe(image) for image in images] if describe else None
            alignment, *_ = [
                evaluator.update(prediction, batch["image"], batch["mask"], scenes) for evaluator in evaluators
            ]
            if begin < SHEET_IMAGES:
                rows.append(_rows_of_sheet(batch, prediction, alignment.labels))
            begin = images.stop
            bar.update(len(images))
    described = {"data": data, "short_name": str(spec), "split": SPLIT, "images_of_split": len(source)}
    results = {**trained.describe(), **described, "batch_size": batch_size, **_results(*evaluators)}
    return results, _sheet(torch.cat(rows)[:SHEET_IMAGES])


def scene_descriptions(source: BatchSource, spec: DataSpec) -> Callable[[int], Metadata] | None:
    """What gives the description of a picture's scene, whose objects are its labels 1, 2, ...; None if nothing does."""
    source = source.source if isinstance(source, Coloured) else source
    if not isinstance(source, ClevrTex) or spec.only_object:
        return None
    return source.metadata if any(path.with_suffix(".json").exists() for path in source.sources) else None


def _results(corrected: ClevrTexEvaluator, original: ClevrTexEvaluator | None = None) -> dict[str, Any]:
    """What the first evaluator found, and what the second one calls by other names."""
    results = corrected.results()
    if original is None:
        return results
    theirs = original.results()["statistics"]
    results["statistics"] |= {name: found for name, found in theirs.items() if name not in results["statistics"]}
    return results | {"protocol": PROTOCOL + AS_DEFINED + AS_ORIGINAL, "as_original": True}


def _rows_of_sheet(
    batch: Batch, prediction: Decomposition, labels: Integer[Tensor, "B H W"]
) -> UInt8[Tensor, "B N 3 H W"]:
    """The N pictures of every image: SHEET_COLUMNS, then mask * patch of every slot."""
    found = prediction[:SHEET_IMAGES].detach().cpu()
    image, truth, labels = (of_all[:SHEET_IMAGES].cpu() for of_all in (batch["image"], batch["mask"], labels))
    patches = found.recon.unsqueeze(1) if found.rgb is None else found.rgb
    wholes = [to_bytes(picture) for picture in (image, colour(truth), colour(labels), found.recon)]
    return torch.cat([torch.stack(wholes, dim=1), to_bytes(found.masks.unsqueeze(2) * patches)], dim=1)


def _sheet(rows: UInt8[Tensor, "B N 3 H W"]) -> UInt8[Tensor, "3 _ _"]:
    """A row per image, grey lines of two pixels between and around the pictures."""
    return image_grid(rows.flatten(0, 1), rows.shape[1], padding=2, pad_value=GREY)
