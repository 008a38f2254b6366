"""The page from start to end: runs are read, their pictures drawn, and everything written."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from core.benchmark.subjects import Subject
from core.data.errors import DataError
from core.data.spec import DataSpec
from core.report.collect import CollectedRun, collect_runs, named_results, read_results
from core.report.drawing import draw_gallery
from core.report.page import GalleryLink, claim, write_gallery, write_page
from core.training.checkpoint import CheckpointError

RESULTS = Path("evaluation/results.jsonl")
"""Where tools/evaluate.py writes unless told otherwise."""
NOT_FOR_A_GALLERY = (CheckpointError, DataError, ValueError, OSError)


@dataclass(frozen=True)
class Pictures:
    """What galleries show: samples of these data sets, or where none is given of the one that a run was trained on."""

    specs: list[str]
    root: Path | None
    split: str
    samples: int
    device: str | None = None
    """None: a GPU if there is one."""


def make_report(
    paths: Sequence[Path], out: Path, pictures: Pictures, results: Path | None = None, force: bool = False
) -> Path:
    """Write the page of these runs into the folder `out`, and give back the path of its index.html.

    What is missing is left out of the page, with a sentence in its place that says why; the same sentences go to the
    standard error. results: None for RESULTS, if it is there.

    Raises DataError if no run can be read, if `out` is another folder, or if the results given are missing or damaged;
    ValueError for a data string that is none.
    """
    for text in pictures.specs:
        DataSpec.parse(text)
    notes: dict[str, list[str]] = {"errors": [], "results": [], "galleries": []}
    rows = []
    if results is None and not RESULTS.exists():
        notes["results"].append(
            f"No leaderboard: there is no {RESULTS}. `python tools/evaluate.py RUNS... --data SPEC` makes it."
        )
    else:
        rows = read_results(results or RESULTS)
    runs, notes["errors"] = collect_runs(paths)
    if not runs:
        raise DataError("none of the runs can be read:\n  " + "\n  ".join(notes["errors"]))
    claim(out, force)
    runs, galleries, notes["galleries"] = draw_all(runs, out, pictures)
    index = write_page(
        out,
        runs=[run.to_dict() for run in runs],
        results=named_results(rows, runs),
        galleries=galleries,
        notes=notes,
    )
    for sentence in [*notes["errors"], *notes["results"], *notes["galleries"]]:
        print(sentence, file=sys.stderr)
    return index


def draw_all(
    runs: Sequence[CollectedRun], out: Path, pictures: Pictures
) -> tuple[list[CollectedRun], list[GalleryLink], list[str]]:
    """The runs with what their models say of themselves, the galleries written, and why others are not there."""
    completed, links, notes = [], [], []
    device = pictures.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with tqdm(total=len(runs) * max(1, len(pictures.specs)) * pictures.samples, unit="sample") as bar:
        for run in runs:
            bar.set_description(run.name)
            try:
                subject = Subject.open(run.path, device)
            except NOT_FOR_A_GALLERY as error:
                completed.append(run)
                notes.append(f"No gallery of {run.name}: {str(error).removeprefix(f'{run.path}: ')}")
                continue
            completed.append(replace(run, model=subject.name, weight=subject.weight, steps=subject.steps or run.steps))
            for text, root in data_of_gallery(run, pictures):
                try:
                    content = draw_gallery(
                        subject,
                        DataSpec.parse(text),
                        pictures.samples,
                        split=pictures.split,
                        root=root,
                        progress=bar.update,
                    )
                except NOT_FOR_A_GALLERY as error:
                    notes.append(f"No gallery of {run.name} on {text}: {error}")
                    continue
                links.append(write_gallery(out, len(links), run.name, text, content))
            if not pictures.specs and "spec" not in run.record.data:
                notes.append(f"No gallery of {run.name}: its record has no data string. Add --data SPEC.")
            del subject
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return completed, links, notes


def data_of_gallery(run: CollectedRun, pictures: Pictures) -> list[tuple[str, str | Path | None]]:
    """Data strings, each with the folder of its data."""
    if pictures.specs:
        return [(text, pictures.root) for text in pictures.specs]
    trained_on = run.record.data
    return [(trained_on["spec"], pictures.root or trained_on.get("root"))] if "spec" in trained_on else []
