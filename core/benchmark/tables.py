"""Results as tables: one block for each data set, a row for each run, a column for each score."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from core.benchmark.protocol import SCORES
from core.benchmark.statistics import over_seeds

Result = Mapping[str, Any]
STATISTICS = ("mean", "std", "low", "high", "n")


def blocks(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results that can be compared, in their order; the name is what stands above a block.

    Data that have the same name, and differ in their folder or content, are told apart. Models that cannot see data
    stand in the first block of these.
    """
    by_title: dict[str, list[Result]] = {}
    for result in results:
        by_title.setdefault(title_of(result), []).append(result)
    found: dict[str, list[Result]] = {}
    for title, of_title in by_title.items():
        conditions = list(dict.fromkeys(conditions_of(result) for result in of_title if _is_scored(result)))
        # Folder and content are said only where they tell blocks apart.
        told = [place < 2 or len(set(column)) > 1 for place, column in enumerate(zip(*conditions))]
        for result in of_title:
            own = conditions_of(result) if _is_scored(result) or not conditions else conditions[0]
            name = ", ".join([title, *(condition for condition, is_told in zip(own, told) if is_told and condition)])
            found.setdefault(name, []).append(result)
    return found


def title_of(result: Result) -> str:
    protocol = result["protocol"]
    frames = "" if protocol["frames"] is None else f", {protocol['frames']} frames"
    return f"{result['data']}, split {protocol['split']}{frames}, protocol {protocol['name']}"


def conditions_of(result: Result) -> tuple[str, str, str, str]:
    """What has to agree for figures under one title to be compared: samples, pictures, folder of the data, content."""
    number, whole = result["num_samples"], result.get("samples_of_split", result["num_samples"])
    return (
        f"first {number:,} of {whole:,} samples" if number < whole else "",
        "" if result["protocol"].get("pictures", True) else "masks alone",
        f"root {result.get('root') or 'as usual'}",
        f"content {result.get('content')}",
    )


def _is_scored(result: Result) -> bool:
    return "not_applicable" not in result


def columns_of(results: Sequence[Result]) -> list[str]:
    """The scores that any of the results has, in the order of SCORES."""
    return [name for name in SCORES if any(name in result["scores"] for result in results)]


def rows_of(results: Sequence[Result], columns: Sequence[str]) -> list[list[str]]:
    """A row for each run: its mean and half the width of the interval; then one for each group of seeds."""
    rows = []
    for result in results:
        label = f"{result['paper']}/{result['model']}"
        steps = "?" if result["steps"] is None else str(result["steps"])
        head = [label, result["run"], steps]
        if reason := result.get("not_applicable"):
            rows.append([*head, f"not applicable: {reason}"])
            continue
        rows.append([*head, str(result["num_samples"]), *(_cell(result["scores"].get(name)) for name in columns)])
    return rows + _rows_of_seeds(results, columns)


def _rows_of_seeds(results: Sequence[Result], columns: Sequence[str]) -> list[list[str]]:
    rows = []
    for same in seed_groups(results):
        spread = over_seeds([_means(result) for result in same])
        cells = [
            f"{_number(spread[name]['mean'])} sd {_number(spread[name]['std'])}" if name in spread else "-"
            for name in columns
        ]
        first = same[0]
        rows.append(
            [f"{first['paper']}/{first['model']}", f"{len(same)} seeds", str(first["steps"] or "?"), "", *cells]
        )
    return rows


def seed_groups(results: Sequence[Result]) -> list[list[Result]]:
    """Runs that differ in nothing but their seed and were scored alike, where there are several."""
    groups: dict[tuple[str, ...], dict[int, Result]] = {}
    for result in filter(_is_scored, results):
        group = (result["group"], title_of(result), *conditions_of(result))
        groups.setdefault(group, {})[result["seed"]] = result
    return [list(by_seed.values()) for by_seed in groups.values() if len(by_seed) > 1]


def _means(result: Result) -> dict[str, float | None]:
    return {name: of["mean"] for name, of in result["scores"].items()}


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None or score["mean"] is None:
        return "-"
    return f"{_number(score['mean'])} +-{_number((score['high'] - score['low']) / 2)}"


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def text_tables(results: Sequence[Result]) -> str:
    """For a terminal."""
    return "\n\n".join(
        "\n".join([name, *_aligned(_header(columns_of(of)), rows_of(of, columns_of(of)))])
        for name, of in blocks(results).items()
    )


def markdown_tables(results: Sequence[Result]) -> str:
    """The same in Markdown, and what the papers' own evaluations say."""
    parts = []
    for name, of in blocks(results).items():
        header = _header(columns_of(of))
        lines = [f"## {name}", "", _markdown_row(header), _markdown_row(["---"] * len(header))]
        for row in rows_of(of, columns_of(of)):
            lines.append(_markdown_row([*row, *[""] * (len(header) - len(row))]))
        parts.append("\n".join([*lines, *original_lines(of)]))
    return "\n\n".join(parts) + "\n"


def original_lines(results: Sequence[Result]) -> list[str]:
    """What the papers' own evaluations say of the runs, and, once for each paper, how they differ."""
    lines, differences = [], {}
    for result in results:
        if original := result.get("original"):
            values = ", ".join(
                f"{name} {'none' if value is None else f'{value:.6g}'}" for name, value in original["scores"].items()
            )
            who = f"As {result['paper']} scores {result['model']} ({result['run']}) on {result['data']}"
            lines += ["", f"{who}: {values or 'nothing'}."]
            differences[result["paper"], original["difference"]] = None
    return lines + [part for paper, words in differences for part in ("", f"How {paper} differs: {words}.")]


def csv_table(results: Sequence[Result]) -> str:
    """A row for each result, five columns for each score."""
    columns = columns_of(results)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    of_run = ("root", "paper", "model", "run", "steps", "seed", "num_samples", "samples_of_split", "not_applicable")
    head = ("data", "split", "protocol", "frames", "pictures", *of_run)
    writer.writerow([*head, *(f"{name}_{statistic}" for name in columns for statistic in STATISTICS)])
    for result in results:
        protocol = result["protocol"]
        values = [result["data"], *(protocol.get(name, "") for name in ("split", "name", "frames", "pictures"))]
        values += [result.get(name, "") for name in of_run]
        scores = (result["scores"].get(name, {}) for name in columns)
        writer.writerow([*values, *(of.get(statistic, "") for of in scores for statistic in STATISTICS)])
    return file.getvalue()


def _header(columns: Sequence[str]) -> list[str]:
    return ["model", "run", "steps", "samples", *(SCORES[name][0] for name in columns)]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    full = [row for row in (header, *rows) if len(row) == len(header)]
    widths = [max(len(row[place]) for row in full) for place in range(len(header))]
    heads = [max([widths[place], *(len(row[place]) for row in rows if len(row) > place)]) for place in range(3)]
    widths[:3] = heads
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        if len(row) == len(header)
        else "  ".join([*(cell.ljust(width) for cell, width in zip(row[:3], widths)), *row[3:]])
        for row in (header, *rows)
    ]
