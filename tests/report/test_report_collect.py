"""What run folders of every layout, and results, say to a report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from core.data.errors import DataError
from core.report.collect import (
    collect_run,
    collect_runs,
    find_scalars,
    named_results,
    names_of,
    read_curves,
    read_results,
    thinned,
)
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, save
from core.training.tracking import Tracker

RECORD = RunRecord("toy", "tests.report:build", {"width": 4}, {"spec": "clevr-crop"}, seed=3, commit="abc", versions={})


def write_scalars(folder: Path, values: list[float]) -> None:
    tracker = Tracker(folder)
    for step, value in enumerate(values):
        tracker.scalars(10 * step, {"loss": value, "lr": 0.5})
    tracker.close()


def write_lines(file: Path, *rows: dict | str) -> Path:
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("given", [".", "weights", "weights/tiny-state-5.pth"])
def test_a_run_of_efficientmorl_has_its_scalars_in_tb(tmp_path: Path, given: str):
    RECORD.write(tmp_path / "weights" / "tiny.run.json")
    save(tmp_path / "weights" / "tiny-state-5.pth", {"step": 5, "model": {}, "run": RECORD.to_dict()})
    write_scalars(tmp_path / "tb" / "tiny_2024-01-01--00-00-00", [3.0, 2.0])
    write_scalars(tmp_path / "tb" / "other_2024-01-02--00-00-00", [9.0])
    run = collect_run("emorl", tmp_path / given)
    assert run.record.seed == 3
    assert run.trained_on == "clevr-crop"
    assert run.curves["loss"].values == [3.0, 2.0]
    assert run.curves["loss"].steps == [0, 10]
    assert run.steps == 10
    assert run.missing == []


@pytest.mark.parametrize("given", [".", "models", "models/model_7.pth", "models/epoch/model_1.pth"])
def test_a_run_of_slotformer_has_its_scalars_above_its_weights(tmp_path: Path, given: str):
    RECORD.write(tmp_path / "run.json")
    (tmp_path / "models" / "epoch").mkdir(parents=True)
    for name in ("model_7.pth", "epoch/model_1.pth"):
        save(tmp_path / "models" / name, {"step": 7, "model": {}, "run": RECORD.to_dict()})
    write_scalars(tmp_path, [1.0, 0.5, 0.25])
    assert collect_run("savi", tmp_path / given).curves["loss"].values == [1.0, 0.5, 0.25]


def test_scalars_of_the_folder_above_belong_to_another_run(tmp_path: Path):
    write_scalars(tmp_path, [1.0])
    RECORD.write(tmp_path / "inner" / "run.json")
    assert find_scalars(tmp_path / "inner", None) is None
    run = collect_run("inner", tmp_path / "inner")
    assert run.curves == {}
    assert run.missing == ["No curves: there is no scalars.jsonl in the folder of this run."]


def test_unreadable_runs_are_named_and_the_others_stay(tmp_path: Path):
    RECORD.write(tmp_path / "good" / "run.json")
    for name in ("empty", "torn", "foreign", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "torn" / "run.json").write_text('{"paper": "to')
    (tmp_path / "foreign" / "run.json").write_text('{"unknown": 1}')
    for name in ("a", "b"):
        RECORD.write(tmp_path / "two" / f"{name}.run.json")
    torch.save({"model": nn.Linear(1, 1).state_dict()}, tmp_path / "bare.pth")
    names = ("good", "missing", "empty", "torn", "foreign", "two", "bare.pth")
    runs, errors = collect_runs([tmp_path / name for name in names])
    assert [run.name for run in runs] == ["good"]
    expected = (
        "missing: no such file or folder",
        "empty: expected one run record (run.json, or NAME.run.json), found none",
        "run.json: not readable",
        "not a run record",
        "found a.run.json, b.run.json",
        "holds no run record",
    )
    assert len(errors) == len(expected)
    for error, part in zip(errors, expected):
        assert part in error


def test_a_run_that_is_given_twice_counts_once(tmp_path: Path):
    RECORD.write(tmp_path / "run" / "run.json")
    runs, _ = collect_runs([tmp_path / "run", tmp_path / "run" / ".." / "run"])
    assert len(runs) == 1


def test_names_are_the_shortest_endings_that_differ():
    paths = [Path("/out/clevr/space/test"), Path("/out/clevr/gnm/test"), Path("/out/tex/gnm/test"), Path("/out/mine")]
    assert names_of(paths) == ["space/test", "clevr/gnm/test", "tex/gnm/test", "mine"]
    assert names_of([Path("/out/steve/checkpoint/run")]) == ["steve/checkpoint/run"]


def test_curves_have_gaps_where_values_are_not_finite_and_end_before_a_torn_line(tmp_path: Path):
    rows = ({"step": 0, "a": 1.0, "word": "x"}, {"step": 5, "a": float("nan"), "b": 2}, '{"step": 9, "a": 0.')
    curves, last = read_curves(write_lines(tmp_path / "scalars.jsonl", *rows))
    assert curves.keys() == {"a", "b"}
    assert (curves["a"].steps, curves["a"].values) == ([0, 5], [1.0, None])
    assert (curves["b"].steps, curves["b"].values) == ([5], [2.0])
    assert last == 5


def test_a_damaged_line_between_others_is_named(tmp_path: Path):
    file = write_lines(tmp_path / "scalars.jsonl", {"step": 0}, "garbage", {"step": 1})
    with pytest.raises(DataError, match=r"scalars.jsonl: line 2 is damaged .* Remove that line"):
        read_curves(file)


def test_long_curves_are_means_of_neighbours():
    values = [float(value) for value in range(10)]
    curve = thinned(list(range(10)), [*values[:8], None, 9.0], most=4)
    assert curve.per_point == 3
    assert curve.steps == [1, 4, 7, 9]
    assert curve.values == [1, 4, None, 9]
    assert thinned([1, 2], [1.0, 2.0], most=2).per_point == 1


def test_results_of_one_key_replace_each_other_and_find_their_run(tmp_path: Path):
    first = {"key": "1", "run": str(tmp_path / "run"), "data": "clevr", "scores": {"ari": {"mean": 0.5}}}
    by_weight = first | {"key": "2", "run": "elsewhere", "weight": {"file": str(tmp_path / "w.pth")}}
    stranger = first | {"key": "3", "run": "stranger"}
    better = first | {"scores": {"ari": {"mean": 0.75}}}
    rows = read_results(write_lines(tmp_path / "results.jsonl", first, by_weight, stranger, better))
    assert [row["key"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["scores"]["ari"]["mean"] == 0.75
    RECORD.write(tmp_path / "run" / "run.json")
    run = replace(collect_run("mine", tmp_path / "run"), weight=tmp_path / "w.pth")

    named = [(row["name"], row["known"]) for row in named_results(rows, [run])]
    assert named == [("mine", True), ("mine", True), ("stranger", False)]


def test_missing_and_damaged_results_say_what_to_do(tmp_path: Path):
    with pytest.raises(DataError, match=r"results.jsonl: not readable .* `python tools/evaluate.py"):
        read_results(tmp_path / "results.jsonl")
    file = write_lines(tmp_path / "results.jsonl", {"key": "1", "run": "a", "scores": {}})
    with pytest.raises(DataError, match=r"line 1 is no result of tools/evaluate.py \(lacks data\)"):
        read_results(file)


def test_a_checkpoint_without_a_record_is_refused(tmp_path: Path):
    save(tmp_path / "bare.pth", {"model": {}})
    with pytest.raises(CheckpointError, match="holds no run record"):
        collect_run("bare", tmp_path / "bare.pth")
