"""What several runs of one model have in common: tables, the benchmark's row, and summaries as JSON and CSV."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from core.data.spec import DataSpec

HEADLINE = ("acc", "ARI", "ARI_FG", "mIoU_fg", "MSE")
"""The row of the benchmark's tables, in the order of its notebook."""
SHOWN_VALUES = 4  # of a long breakdown: so many of the lowest and of the highest
Results = Mapping[str, Any]
"""Of one run on one data set, see `clevrtex.framework.evaluation.evaluate`."""
Summary = dict[str, Any]


def over_runs(results: Sequence[Results]) -> Summary:
    """Mean and population standard deviation over runs of all statistics on one data set, and the value of each run.

    `statistics[name]` and `by_tag[name][tag][value]` have `mean`, `std` (None for one run) and `runs`; there is no mean
    of what is undefined in a run. Values of a tag stand in ascending order of the mean.
    """
    first = results[0]
    by_tag: dict[str, dict[str, dict]] = {}
    for name, tags in first["by_tag"].items():
        by_tag[name] = {}
        for tag, values in tags.items():
            found = {value: _spread([run["by_tag"][name][tag][value] for run in results]) for value in values}
            ascending = sorted(found, key=lambda value, found=found: _or_infinity(found[value]["mean"]))
            by_tag[name][tag] = {value: found[value] | {"count": values[value]["count"]} for value in ascending}
    return {
        "num_images": first["num_images"],
        "statistics": {name: _spread([run["statistics"][name] for run in results]) for name in first["statistics"]},
        "by_tag": by_tag,
    }


def _spread(found: Sequence[Results]) -> dict[str, Any]:
    means = [of_run["mean"] for of_run in found]
    if None in means:
        return {"mean": None, "std": None, "runs": means}
    return {"mean": float(np.mean(means)), "std": float(np.std(means)) if len(means) > 1 else None, "runs": means}


def _or_infinity(value: float | None) -> float:
    return float("inf") if value is None else value


def statistics_table(results: Sequence[Results]) -> str:
    """A line per statistic: of every run its mean over images and the interval, then mean and deviation over runs."""
    several = len(results) > 1
    header = ["statistic", *(f"run {number}" if several else "mean" for number in range(1, len(results) + 1))]
    lines = [header + (["mean over runs", "std"] if several else [])]
    for name, over in over_runs(results)["statistics"].items():
        line = [name, *(_with_interval(run["statistics"][name]) for run in results)]
        lines.append(line + ([_number(over["mean"]), _number(over["std"])] if several else []))
    return _aligned(lines)


def breakdown_lines(summary: Summary) -> list[str]:
    """The IoU of objects and of backgrounds by what they are; of many kinds the lowest and the highest only."""
    lines = []
    for name in ("obj_iou", "ground_iou"):
        for tag, values in summary["by_tag"].get(name, {}).items():
            shown = [f"{value} {_number(found['mean'])}" for value, found in values.items()]
            if len(shown) > 2 * SHOWN_VALUES:
                shown = [*shown[:SHOWN_VALUES], f"... ({len(shown)} in all)", *shown[-SHOWN_VALUES:]]
            lines.append(f"{name} by {tag}: {', '.join(shown)}")
    return lines


def headline_table(summaries: Mapping[str, Summary]) -> str:
    """The benchmark's figures, a line per data set, with the deviation over runs if there are several."""
    lines = [["data", *_headline(summaries)]]
    for data, summary in summaries.items():
        lines.append([str(DataSpec.parse(data)), *_cells(summary, _headline(summaries), _number, " +- ")])
    return _aligned(lines)


def latex_rows(summaries: Mapping[str, Summary]) -> str:
    """The row that the benchmark's notebook prints, of five decimals, behind the name of the data; one per data set."""
    rows = [f"% data & {' & '.join(_headline(summaries))}"]
    for data, summary in summaries.items():
        cells = _cells(summary, _headline(summaries), lambda value: _number(value, ".5f"), " \\pm ")
        row = " & ".join([str(DataSpec.parse(data)).replace("_", "\\_"), *(f"${cell}$" for cell in cells)])
        rows.append(f"{row} \\\\")
    return "\n".join(rows)


def summary_csv(summaries: Mapping[str, Summary], runs: Sequence[str]) -> str:
    """A line per data set and run, then their mean and, of several runs, their deviation; a column per statistic."""
    names = list(dict.fromkeys(name for summary in summaries.values() for name in summary["statistics"]))
    file = io.StringIO()
    writer = csv.DictWriter(file, ["data", "run", "num_images", *names], lineterminator="\n")
    writer.writeheader()
    for data, summary in summaries.items():
        found = summary["statistics"]
        lines = {run: {name: of["runs"][number] for name, of in found.items()} for number, run in enumerate(runs)}
        for part in ("mean", "std") if len(runs) > 1 else ("mean",):
            lines[part] = {name: of[part] for name, of in found.items()}
        for run, values in lines.items():
            writer.writerow({"data": data, "run": run, "num_images": summary["num_images"], **values})
    return file.getvalue()


def _headline(summaries: Mapping[str, Summary]) -> list[str]:
    """The names of HEADLINE; the original's figures where they were asked for."""
    names = next(iter(summaries.values()))["statistics"]
    return [f"{name}_original" if f"{name}_original" in names else name for name in HEADLINE]


def _cells(summary: Summary, names: Sequence[str], show: Callable[[float | None], str], between: str) -> list[str]:
    found = [summary["statistics"][name] for name in names]
    return [show(of["mean"]) + (between + show(of["std"]) if of["std"] is not None else "") for of in found]


def _with_interval(found: Results) -> str:
    if "interval" not in found:
        return _number(found["mean"])
    low, high = (_number(bound) for bound in found["interval"])
    return f"{_number(found['mean'])} [{low}, {high}]"


def _number(value: float | None, form: str = ".4g") -> str:
    return "-" if value is None else format(value, form)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first one aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(line))
        for line in (list(zip(line, widths)) for line in lines)
    )
