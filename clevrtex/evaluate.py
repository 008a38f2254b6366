#!/usr/bin/env python3
"""Evaluate trained models on the benchmark's test sets, or on any other data.

    python clevrtex/evaluate.py output/clecm/slota/slot-attention
    python clevrtex/evaluate.py output/clt_fullcm/slota/seed_{1,2,3} --data clevrtex:full clevrtex:camo --latex
    python clevrtex/evaluate.py weights.ckpt --experiment slota

Several runs of one model, which differ in their seeds, also get mean and standard deviation. Beside every run go
`evaluation-<data>.json` (all statistics, with intervals, and by material, shape, size) and `evaluation-<data>.png` (the
first pictures); for a checkpoint file their names begin with its own. `evaluation.json` and `evaluation.csv` sum up all
runs and sets.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clevrtex.framework.catalogue import EXPERIMENTS, experiment_class
from core.commandline import StrictParser, positive

if TYPE_CHECKING:
    import torch

    from clevrtex.framework.trained import Trained


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser("clevrtex/evaluate.py", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders of runs, or checkpoint files")
    parser.add_argument(
        "--data",
        metavar="SPEC",
        nargs="+",
        help="data strings; without flags they are framed as in training (default: the test sets of CLEVR or ClevrTex "
        "that are on disk, or the test split of the training's data)",
    )
    parser.add_argument("--data_root", metavar="DIR", help="folder of the data (default: that of the training)")
    parser.add_argument(
        "--checkpoint", choices=("best", "last"), help="which one of a run (default: best, or last if there is none)"
    )
    parser.add_argument(
        "--experiment", metavar="NAME", help=f"model of the original code's checkpoints: {', '.join(EXPERIMENTS)}"
    )
    parser.add_argument("--limit", metavar="N", type=positive, help="only the first N pictures (int, default: all)")
    parser.add_argument("--batch_size", metavar="N", type=positive, help="at a time (int, default: as in training)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument(
        "--as_original", action="store_true", help="also the original's figures, as mSC_original, ... (default: no)"
    )
    parser.add_argument("--latex", action="store_true", help="also print rows for a paper's table (default: no)")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="folder of the summary (default: the one that holds all runs)"
    )
    arguments = parser.parse(words)
    if arguments.experiment:
        try:
            experiment_class(arguments.experiment)
        except ValueError as error:
            parser.error(f"--experiment: {error}")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Evaluate as told: print tables and write the files."""
    from clevrtex.framework.evaluation import evaluate, open_data
    from clevrtex.framework.reports import breakdown_lines, headline_table, latex_rows, over_runs, statistics_table
    from clevrtex.framework.trained import open_trained
    from core.viz.panels import save_png

    device = choose_device(arguments.device)
    runs = [open_trained(path, device, arguments.checkpoint, arguments.experiment) for path in arguments.runs]
    check_runs(runs)
    summary_path = summary_path_of(runs, arguments.out)
    for folder in {path.parent for path in (summary_path, *(trained.results for trained in runs))}:
        if not os.access(folder, os.W_OK):
            raise ValueError(f"{folder}: results cannot be written there")
    for number, trained in enumerate(runs, start=1):
        whose = "the original code's " if trained.is_original else ""
        steps = "an unknown number of" if trained.steps is None else f"{trained.steps:,}"
        print(f"run {number}: {trained.checkpoint}, {whose}{trained.name} after {steps} steps on {trained.data}")
    sources = open_data(arguments.data, runs[0], arguments.data_root)
    summaries: dict[str, dict[str, Any]] = {}
    for data, source in sources.items():
        results = []
        for trained in runs:
            options = {name: getattr(arguments, name) for name in ("limit", "batch_size", "as_original")}
            found, sheet = evaluate(trained, data, source, **options)
            results.append(found)
            name = f"{trained.results.name}-{found['short_name']}"
            write_json(trained.results.with_name(f"{name}.json"), found)
            save_png(trained.results.with_name(f"{name}.png"), sheet.permute(1, 2, 0).numpy())
        summaries[data] = over_runs(results)
        print(f"\n{data}: {found['num_images']:,} of {found['images_of_split']:,} pictures of the test split")
        print("\n".join([statistics_table(results), *breakdown_lines(summaries[data])]))
    print(f"\n{headline_table(summaries)}")
    if arguments.latex:
        print(f"\n{latex_rows(summaries)}")
    print(f"\nprotocol: {found['protocol']}")
    write_summary(summary_path, runs, summaries, found)
    places = ", ".join(f"{trained.results}-*" for trained in runs)
    print(f"results in {places}; summary in {summary_path}.json and .csv")


def choose_device(name: str | None) -> "torch.device":
    """The device of that name, by default a GPU if there is one. Raises ValueError for one that cannot be used."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises the latter where it was built without CUDA
        raise ValueError(f"--device {name!r}: {str(error).splitlines()[0]}") from error


def check_runs(runs: Sequence["Trained"]) -> None:
    """Raises ValueError unless they are seeds of one experiment, each with a place of its own for results."""
    from core.data.spec import DataSpec

    first, places = runs[0], {}
    for trained in runs:
        for what, mine, other in (
            ("model", trained.name, first.name),
            ("size", trained.image_size, first.image_size),
            ("training data", DataSpec.parse(trained.data), DataSpec.parse(first.data)),
        ):
            if mine != other:
                raise ValueError(
                    f"{trained.checkpoint} and {first.checkpoint} differ in {what}, {mine} and {other}: "
                    "no seeds of one experiment. Evaluate them one by one"
                )
        place = trained.results.resolve()
        if place in places:
            raise ValueError(f"{trained.checkpoint}: its results would replace those of {places[place]}. Leave one out")
        places[place] = trained.checkpoint


def summary_path_of(runs: Sequence["Trained"], out: Path | None) -> Path:
    """The path of the summary, without suffix: in `out`, else beside a single run, else in the folder of all runs."""
    from clevrtex.framework.trained import RESULTS

    if out is None and len(runs) == 1:
        return runs[0].results
    folder = out or Path(os.path.commonpath([trained.results.parent.absolute() for trained in runs]))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / RESULTS


def write_json(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    from core.files import replacing

    with replacing(path) as partial:
        partial.write_text(text)


def write_summary(
    path: Path, runs: Sequence["Trained"], summaries: dict[str, dict[str, Any]], results: dict[str, Any]
) -> None:
    """Write `path`.json and `path`.csv; `results` are those of any of the runs."""
    from clevrtex.framework.reports import summary_csv

    common = {name: results[name] for name in ("model", "trained_on", "split", "protocol", "as_original")}
    described = {**common, "runs": [trained.describe() for trained in runs], "data": summaries}
    write_json(path.with_name(f"{path.name}.json"), described)
    csv = summary_csv(summaries, [str(trained.checkpoint) for trained in runs])
    write_text(path.with_name(f"{path.name}.csv"), csv)


def main(words: Sequence[str]) -> int:
    """Evaluate as the command line says. Exit codes: 0 done, 1 error, 2 misuse, 130 interrupted."""
    arguments = parse_arguments(words)
    from core.outcome import exit_code_of

    return exit_code_of(lambda: run(arguments) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
