"""Every run on every data set by one protocol: resumable, and the same figures on any number of processes.

The folder of the results holds `results.jsonl`, one JSON object for each pair of a run and a data string:

    key             short hash of what is asked for: weight, data, protocol, ...
    run, model, paper, steps, seed      of the run; `weight` {file, sha256}; `versions`, `commit` of its training
    group           short hash that runs share which differ in nothing but their seed
    model_size      [height, width] that the model sees
    data            the data string with its size, if one was asked for; `kind` (images, videos, views), `root`
    content         short hash of a few of the samples
    num_samples, samples_of_split       scored, and there
    protocol        all fields of core.benchmark.protocol.Protocol
    scores          {name: {mean, std, low, high, n}}: over samples; `low` to `high` is the 95 % bootstrap interval
    lpips           whether LPIPS could be scored
    samples         file of the scores of single samples (.npz, `index` beside one array per score)
    seconds         that it took
    original        if asked for: {scores: {name: value}, difference: words}, what the run's own paper would print
    not_applicable  in place of scores: why the model cannot see such data

A result of other `content`, for the data have changed since, or without LPIPS where its weights have come since, is
scored anew and replaced.

`partial/<key>-<stamp>.<process>.jsonl` holds the samples of pairs that are not finished, a line each; the stamp is of
`content` and `lpips`. An interrupted pair goes on behind them, on any number of processes: a sample's scores depend on
no other sample. All processes write to one folder, which has to be on a disk that they share.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Integer
from torch import Tensor
from tqdm import tqdm

from core.benchmark.original import Asked, original_scores
from core.benchmark.protocol import Distance, Protocol, scores_of
from core.benchmark.results import Results, Rows
from core.benchmark.statistics import summary_of
from core.benchmark.subjects import Subject
from core.data.loader import Batch, BatchSource, to_device
from core.data.spec import DataSpec
from core.metrics.perceptual import load_lpips
from core.metrics.pretrained import MissingWeightsError
from core.provenance import file_hash

WITNESSES = 8
"""Samples that tell whether data have changed."""


@dataclass(frozen=True)
class Options:
    """Of an evaluation, beside its runs and data."""

    protocol: Protocol
    root: Path | None = None
    """Folder of the data; else the usual ones."""
    limit: int | None = None
    """Samples of each data set."""
    batch_size: int = 8
    as_original: bool = False
    again: bool = False
    """Forget what is known of the pairs."""


@dataclass(frozen=True)
class Pair:
    """A run and a data set that it can see, opened; `spec` says how batches are recoloured."""

    subject: Subject
    data: str
    spec: DataSpec
    source: BatchSource | None
    refusal: str | None
    key: str
    content: str | None
    described: dict[str, Any]


def sized(text: str, size: tuple[int, int] | None) -> str:
    """A data string with that height and width. ValueError if it says another one."""
    spec = DataSpec.parse(text)
    if size is None or spec.size == size or spec.kind == "views":
        return text
    if spec.size is not None:
        raise ValueError(f"--data {text!r} and --size {size[0]} {size[1]} contradict each other: leave one out")
    return f"{text}-({size[0]},{size[1]})"


def open_pairs(subjects: Sequence[Subject], texts: Sequence[str], options: Options) -> list[Pair]:
    """All pairs, data by data. Raises ValueError and DataError for data that cannot be opened."""
    hashes = {subject.weight: file_hash(subject.weight) for subject in subjects}
    sources: dict[tuple[str, bool], tuple[BatchSource, str]] = {}
    pairs = []
    for text in texts:
        spec = DataSpec.parse(text)
        for subject in subjects:
            refusal = subject.refusal(spec.kind)
            # Scenes with cameras are pictures for models that see pictures or videos.
            as_pictures = spec.kind == "views" and subject.sees != "views"
            if refusal is None and (text, as_pictures) not in sources:
                opened = _open(spec, as_pictures, options)
                sources[text, as_pictures] = opened, content_of(opened, options.limit)
            source, content = (None, None) if refusal else sources[text, as_pictures]
            kind = "images" if as_pictures else spec.kind
            pairs.append(_pair(subject, text, spec, source, content, refusal, kind, hashes[subject.weight], options))
    return pairs


def _open(spec: DataSpec, as_pictures: bool, options: Options) -> BatchSource:
    protocol = options.protocol
    if as_pictures:
        return spec.open(protocol.split, options.root, masks=spec.has_masks)
    return spec.open_whole(protocol.split, options.root, frames=protocol.frames)


def content_of(source: BatchSource, limit: int | None = None) -> str:
    """Short hash of some of the first `limit` samples, evenly spaced, with their masks. DataError for damaged ones."""
    digest, count = hashlib.sha256(), min(len(source), limit or len(source))
    for index in np.unique(np.linspace(0, count - 1, min(count, WITNESSES)).astype(np.int64)):
        for name, value in sorted(source.read(np.array([index])).items()):
            digest.update(f"{index} {name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _pair(
    subject: Subject,
    text: str,
    spec: DataSpec,
    source: BatchSource | None,
    content: str | None,
    refusal: str | None,
    kind: str,
    weight_hash: str,
    options: Options,
) -> Pair:
    record = subject.record
    size = len(source) if source is not None else 0
    described = {
        "run": str(subject.path),
        "model": subject.name,
        "paper": subject.paper,
        "steps": subject.steps,
        "seed": record.seed,
        "group": group_of(subject),
        "weight": {"file": str(subject.weight), "sha256": weight_hash},
        "model_size": list(subject.size),
        "versions": record.versions,
        "commit": record.commit,
        "data": text,
        "kind": kind,
        "root": root_of(spec, options.root),
        "content": content,
        "num_samples": min(size, options.limit or size),
        "samples_of_split": size,
        "protocol": options.protocol.to_dict(),
    }
    decisive = ("run", "weight", "data", "kind", "root", "num_samples", "samples_of_split", "protocol")
    key = _hash({name: described[name] for name in decisive})
    return Pair(subject, text, spec, source, refusal, key, content, described)


def root_of(spec: DataSpec, root: Path | None) -> str | None:
    """The folder of the data: the one that was given, or those that the data string names; None for the usual ones."""
    named = [str(Path(variant).resolve()) for name, variant in spec.sets if name == "folder"]
    return ", ".join(named) or (None if root is None else str(root.resolve()))


def group_of(subject: Subject) -> str:
    """Short hash of all that the record says but the seed, and what follows from it."""
    record = subject.record.to_dict()
    kept = ("paper", "builder", "arguments", "data", "inputs")
    return _hash({**{name: _without_seed(record[name]) for name in kept}, "steps": subject.steps})


def _without_seed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_seed(entry) for key, entry in value.items() if key != "seed"}
    return value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def evaluate(
    pairs: Sequence[Pair], results: Results, options: Options, accelerator: Accelerator, device: torch.device
) -> list[dict[str, Any]]:
    """The results of all pairs, those that are finished already from the file, which is complete after each."""
    lpips = _lpips(device) if options.protocol.pictures else None
    if options.again and accelerator.is_main_process:
        results.forget([pair.key for pair in pairs])
    accelerator.wait_for_everyone()
    found = []
    for number, pair in enumerate(pairs, 1):
        result = _finished(pair, results, lpips)
        accelerator.wait_for_everyone()  # all have looked before one writes
        title = f"{number}/{len(pairs)} {pair.subject.name} on {pair.data}"
        is_new = result is None
        if is_new:
            result = _score(pair, results, options, accelerator, device, lpips, title)
        if options.as_original and "original" not in result and pair.refusal is None:
            original = _original(pair, options, device)
            result, is_new = result | {"original": original}, True
        if accelerator.is_main_process:
            if is_new:
                results.add(result)
            tqdm.write(f"{title}: {result.get('not_applicable') or ('scored' if is_new else 'already scored')}")
        accelerator.wait_for_everyone()
        found.append(result)
    return found


def _finished(pair: Pair, results: Results, lpips: Distance | None) -> dict[str, Any] | None:
    """The result of a pair, unless its data have changed, or LPIPS can be scored and was not."""
    result = results.read().get(pair.key)
    if result is None or pair.refusal is not None:
        return result
    is_of_these = result.get("content") == pair.content and (lpips is None or result.get("lpips", False))
    return result if is_of_these else None


def stamp_of(content: str | None, has_lpips: bool) -> str:
    """Tells rows of a pair apart that must not be mixed."""
    return _hash([content, has_lpips])


def _original(pair: Pair, options: Options, device: torch.device) -> dict[str, Any]:
    protocol = options.protocol
    asked = Asked(pair.data, options.root, protocol.split, protocol.frames, options.limit, options.batch_size)
    return _moved(pair.subject, device, lambda subject: original_scores(subject, asked))


def _score(
    pair: Pair,
    results: Results,
    options: Options,
    accelerator: Accelerator,
    device: torch.device,
    lpips: Distance | None,
    title: str,
) -> dict[str, Any]:
    """Score the samples that are missing, each process its share; the result, the same in all processes."""
    if pair.refusal is not None:
        return {"key": pair.key, **pair.described, "scores": {}, "not_applicable": pair.refusal}
    began = time.perf_counter()
    stamp = stamp_of(pair.content, lpips is not None)
    rows = results.rows(pair.key, stamp, accelerator.process_index)
    missing = sorted(set(range(pair.described["num_samples"])) - rows.known().keys())
    accelerator.wait_for_everyone()  # all processes share out the same list
    batches = [missing[begin : begin + options.batch_size] for begin in range(0, len(missing), options.batch_size)]
    own = batches[accelerator.process_index :: accelerator.num_processes]

    def score_all(subject: Subject) -> None:
        with tqdm(total=sum(map(len, own)), desc=title, leave=False, disable=_is_hidden(accelerator)) as bar:
            for indices in own:
                rows.add(indices, score_batch(subject, pair, options.protocol, indices, lpips))
                bar.update(len(indices))

    _moved(pair.subject, device, score_all)
    accelerator.wait_for_everyone()
    result = _result(pair, rows, results, time.perf_counter() - began, accelerator)
    return result | {"lpips": lpips is not None}


def _is_hidden(accelerator: Accelerator) -> bool | None:
    return None if accelerator.is_main_process else True


def _moved(subject: Subject, device: torch.device, work: Callable[[Subject], Any]) -> Any:
    """What `work` makes of the subject on the device, which is then free for the next one."""
    before = subject.device
    subject.model.to(device)
    try:
        return work(subject)
    finally:
        subject.model.to(before)


def score_batch(
    subject: Subject, pair: Pair, protocol: Protocol, indices: Sequence[int], lpips: Distance | None
) -> dict[str, Float[Tensor, " n"]]:
    """The scores of these samples of the pair's data; NaN where one has no value. CheckpointError if it diverged."""
    batch = pair.spec.recolour(to_device(pair.source.read(np.array(indices)), subject.device))
    found = subject.decompose(batch, indices) if protocol.pictures else subject.segment(batch, indices)
    subject.require_finite(found, [f"sample {index} of {pair.data}" for index in indices])
    video, labels, overlap = truth_of(batch)
    return {name: values.cpu() for name, values in scores_of(protocol, found, video, labels, overlap, lpips).items()}


def truth_of(
    batch: Batch,
) -> tuple[Float[Tensor, "B T 3 H W"], Integer[Tensor, "B T H W"] | None, Integer[Tensor, "B T H W"] | None]:
    """Pictures with a frame axis, true labels, and where pixels belong to several objects, if there are any."""
    if "images" in batch:
        return batch["images"].float() / 255, batch.get("mask", batch.get("masks")), None
    if "video" in batch:
        return batch["video"], batch.get("mask"), batch.get("overlap")
    found = (batch[key][:, None] if key in batch else None for key in ("image", "mask", "overlap"))
    return tuple(found)


def _result(pair: Pair, rows: Rows, results: Results, seconds: float, accelerator: Accelerator) -> dict[str, Any]:
    """Statistics of all rows; the main process writes the scores of single samples and removes the rows."""
    known = rows.known()
    indices = sorted(known)[: pair.described["num_samples"]]
    names = dict.fromkeys(name for index in indices for name in known[index])
    nothing = float("nan")
    columns = {name: np.array([known[index].get(name, nothing) for index in indices]) for name in names}
    accelerator.wait_for_everyone()  # all have read
    path = results.samples_of(pair.key)
    if accelerator.is_main_process:
        results.write_samples(pair.key, np.array(indices), columns)
        rows.remove()
    return {
        "key": pair.key,
        **pair.described,
        "scores": {name: summary_of(values) for name, values in columns.items()},
        "samples": str(path.relative_to(results.folder)),
        "seconds": round(seconds, 3),
    }


def _lpips(device: torch.device) -> Distance | None:
    try:
        return load_lpips("vgg").to(device)
    except MissingWeightsError:
        return None


def usable_device(name: str) -> torch.device:
    """The device of that name. Raises ValueError for one that cannot be used."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises the latter where it was built without CUDA
        raise ValueError(f"--device {name!r}: {str(error).splitlines()[0]}") from error


def with_choices(protocol: Protocol, split: str, frames: int | None, pictures: bool) -> Protocol:
    """The protocol with what a user chose."""
    return replace(protocol, split=split, frames=frames, pictures=pictures)
