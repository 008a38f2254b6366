"""Statistics, files and tables of the benchmark."""

import csv
import hashlib
import json
import math

import numpy as np
import pytest
import torch

from core.benchmark.results import Results
from core.benchmark.statistics import bootstrap_interval, over_seeds, summary_of
from core.benchmark.tables import blocks, csv_table, markdown_tables, seed_groups, text_tables
from core.data.errors import DataError
from examples.leaderboard.run import results_of


def result(run: str, seed: int = 0, mean: float = 0.5, **changes) -> dict:
    score = {"mean": mean, "std": 0.1, "low": mean - 0.02, "high": mean + 0.02, "n": 4}
    fields = {
        "key": run,
        "run": run,
        "model": "StoSAVi",
        "paper": "slotformer",
        "steps": 40,
        "seed": seed,
        "group": "same",
        "data": "obj3d",
        "num_samples": 4,
        "protocol": {"name": "objectcentric-1", "split": "test", "frames": None},
        "scores": {"fg_ari": score, "mse": {**score, "mean": None, "low": None, "high": None, "n": 0}},
    }
    return fields | changes


def test_the_interval_is_that_of_resampled_means():
    values = np.random.default_rng(1).normal(3, 2, size=57)
    generator = np.random.default_rng(0)
    means = [generator.choice(values, size=57).mean() for _ in range(500)]
    found = bootstrap_interval(values, resamplings=500, seed=0)
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.08)
    rows = np.random.default_rng(0).integers(57, size=(500, 57))
    assert found == pytest.approx(np.percentile(values[rows].mean(axis=1), [2.5, 97.5]), abs=1e-12)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(generator.normal(1, 1, size=60), resamplings=400)
        hits += low <= 1 <= high
    assert 180 <= hits <= 198


def test_many_values_are_resampled_in_parts(monkeypatch):
    values = np.random.default_rng(3).random(100)
    whole = bootstrap_interval(values, resamplings=300)
    monkeypatch.setattr("core.benchmark.statistics.VALUES_AT_A_TIME", 100 * 7)
    assert bootstrap_interval(values, resamplings=300) == pytest.approx(whole, abs=1e-12)


def test_samples_without_a_value_do_not_count():
    found = summary_of(np.array([1.0, math.nan, 3.0]))
    assert (found["mean"], found["n"]) == (2.0, 2)
    assert found["std"] == pytest.approx(math.sqrt(2))
    assert summary_of(np.array([math.nan])) == {"mean": None, "std": None, "low": None, "high": None, "n": 0}
    assert summary_of(np.array([0.25]))["std"] == 0


def test_spread_over_seeds():
    spread = over_seeds([{"fg_ari": 0.5, "mse": 1.0}, {"fg_ari": 0.7, "mse": None}])
    assert spread["fg_ari"] == {"mean": pytest.approx(0.6), "std": pytest.approx(0.1 * math.sqrt(2)), "n": 2}
    assert "mse" not in spread


def test_rows_survive_a_killed_process(tmp_path):
    first, second = (Results(tmp_path).rows("pair", "stamp", process) for process in (0, 1))
    first.add([0, 1], {"fg_ari": torch.tensor([0.1, math.nan]).double()})
    second.add([2], {"fg_ari": torch.tensor([1 / 3], dtype=torch.float64)})
    file = tmp_path / "partial" / "pair-stamp.0.jsonl"
    file.write_text(file.read_text() + '{"index": 3, "sco')
    assert set(first.known()) == {0, 1, 2}
    assert first.known()[2]["fg_ari"] == 1 / 3
    assert math.isnan(second.known()[1]["fg_ari"])
    first.add([3], {"fg_ari": torch.tensor([0.5]).double()})
    assert set(second.known()) == {0, 1, 2, 3}
    assert not Results(tmp_path).rows("pair", "other", 0).known()
    first.remove()
    assert not (tmp_path / "partial").exists()


def test_a_result_takes_the_place_of_that_of_its_key(tmp_path):
    results = Results(tmp_path)
    for mean in (0.1, 0.2):
        results.add(result("a", mean=mean))
    results.add(result("b"))
    assert [entry["scores"]["fg_ari"]["mean"] for entry in results.read().values()] == [0.2, 0.5]
    assert [json.loads(line)["key"] for line in results.path.read_text().splitlines()] == ["a", "b"]


def test_a_damaged_file_of_results_is_named(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"key": "a"}\n{"ke\n')
    with pytest.raises(DataError, match=r"results\.jsonl: line 2 is no result"):
        Results(tmp_path).read()


def test_tables():
    refused = result("c", not_applicable="OSRT needs several views", scores={}, model="OSRT", group="other")
    results = [result("a"), result("b", seed=1, mean=0.7), refused]
    assert [[entry["run"] for entry in group] for group in seed_groups(results)] == [["a", "b"]]
    lines = text_tables(results).splitlines()
    assert lines[0] == "obj3d, split test, protocol objectcentric-1"
    assert lines[1].split() == ["model", "run", "steps", "samples", "FG-ARI", "MSE"]
    assert lines[2].split() == ["slotformer/StoSAVi", "a", "40", "4", "0.5000", "+-0.0200", "-"]
    assert lines[4].endswith("not applicable: OSRT needs several views")
    assert lines[5].split()[1:3] == ["2", "seeds"]
    assert "0.6000 sd 0.1414" in lines[5]
    assert markdown_tables(results).count("| slotformer/StoSAVi |") == 3
    table = list(csv.DictReader(csv_table(results).splitlines()))
    assert [row["run"] for row in table] == ["a", "b", "c"]
    assert (table[1]["fg_ari_mean"], table[1]["fg_ari_n"], table[1]["mse_mean"]) == ("0.7", "4", "")
    assert table[2]["not_applicable"] == "OSRT needs several views"


def test_one_seed_has_no_spread():
    assert seed_groups([result("a"), result("b")]) == []


def test_only_what_was_scored_alike_is_compared():
    whole = {"num_samples": 8, "samples_of_split": 8, "root": "/data"}
    masks_alone = {"name": "objectcentric-1", "split": "test", "frames": None, "pictures": False}
    results = [
        result("refused", not_applicable="no cameras", scores={}, **whole | {"num_samples": 0, "samples_of_split": 0}),
        result("a", **whole),
        result("b", seed=1, mean=0.7, **whole | {"num_samples": 4}),
        result("c", seed=2, mean=0.7, **whole | {"root": "/other"}),
        result("d", seed=3, mean=0.7, **whole, protocol=masks_alone),
        result("e", seed=4, mean=0.7, **whole),
        result("f", seed=5, mean=0.7, **whole, content="other"),
    ]
    assert [[entry["run"] for entry in group] for group in seed_groups(results)] == [["a", "e"]]
    title = "obj3d, split test, protocol objectcentric-1"
    of_these = ", root /data, content None"
    assert {name: [entry["run"] for entry in of] for name, of in blocks(results).items()} == {
        f"{title}{of_these}": ["refused", "a", "e"],
        f"{title}, first 4 of 8 samples{of_these}": ["b"],
        f"{title}, root /other, content None": ["c"],
        f"{title}, masks alone{of_these}": ["d"],
        f"{title}, root /data, content other": ["f"],
    }
    assert list(blocks(results[:3])) == [title, f"{title}, first 4 of 8 samples"]
    assert list(blocks(results[:1])) == [title]
    table = list(csv.DictReader(csv_table(results).splitlines()))
    assert [row["samples_of_split"] for row in table] == ["0", *["8"] * 6]
    assert (table[3]["root"], table[4]["pictures"]) == ("/other", "False")


def test_results_are_forgotten_with_their_rows(tmp_path):
    results = Results(tmp_path)
    results.add(result("a"))
    results.add(result("b"))
    results.rows("b", "stamp", 0).add([0], {"fg_ari": torch.tensor([0.1]).double()})
    results.forget(["b", "c"])
    assert list(results.read()) == ["a"]
    assert not (tmp_path / "partial").exists()
    results.forget(["a"])
    assert results.read() == {}


def test_the_leaderboard_takes_the_weights_that_are_there_and_its_samples(tmp_path):
    results = Results(tmp_path / "evaluation")
    for name in ("early.pth", "late.pth"):
        (tmp_path / name).write_text(name)
    early, late = (
        {"file": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in ("early.pth", "late.pth")
    )
    for key, changes in {
        "early": {"weight": early},
        "late": {"weight": late},
        "gone": {"weight": {"file": "gone.pth", "sha256": ""}},
        "overwritten": {"weight": early | {"sha256": ""}},
        "few": {"weight": late, "num_samples": 2},
        "all": {"weight": late, "num_samples": 8},
        "refused": {"weight": late, "run": "osrt", "num_samples": 0, "samples_of_split": 0},
    }.items():
        results.add(result("run") | {"samples_of_split": 8, "key": key} | changes)
    found = {run: entry["key"] for (run, data), entry in results_of(tmp_path, 4).items() if data == "obj3d"}
    assert found == {"run": "late", "osrt": "refused"}
