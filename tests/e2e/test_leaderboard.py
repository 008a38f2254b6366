"""`make leaderboard`, in small: a table of all models on all data sets, results, a page; nothing is done twice."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, Runner

SCRIPT = "examples/leaderboard/run.py"
PAPERS = ("emorl", "clevrtex", "slotformer", "slotdiffusion", "osrt")
SETS = ("multi_dsprites", "obj3d", "clevr3d")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("leaderboard")


@pytest.fixture(scope="module")
def readme(folder: Path) -> Path:
    path = folder / "README.md"
    path.write_text("before\n<!-- leaderboard -->\nold\n<!-- /leaderboard -->\nafter\n")
    return path


@pytest.fixture(scope="module")
def done(run: Runner, folder: Path, readme: Path) -> subprocess.CompletedProcess:
    return run(SCRIPT, "--quick", "--out", folder / "out", "--readme", readme, timeout=1800)


def test_every_model_is_in_the_table(done: subprocess.CompletedProcess, folder: Path, readme: Path) -> None:
    assert done.returncode == 0, done.stderr
    text = (folder / "out/leaderboard.md").read_text()
    header, _, *rows = (line for line in text.splitlines() if line.startswith("|"))
    assert [cell for cell in header.split("|") if "FG-ARI" in cell] == [f" {name}: FG-ARI, PSNR " for name in SETS]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert {row[1] for row in cells[:-1]} == {f"`{paper}`" for paper in PAPERS}
    assert len(cells) >= 9
    for model, _, data, minutes, *scores in cells[:-1]:
        assert float(minutes) >= 0
        assert len(scores) == len(SETS)
        own = scores[SETS.index(data.strip("`"))]
        assert own.startswith("**"), model
    assert cells[-1][0] == "best grid of equal blocks"
    assert all(0 < float(score.split(",")[0]) <= 1 for score in cells[-1][4:])
    assert readme.read_text() == f"before\n<!-- leaderboard -->\n{text}<!-- /leaderboard -->\nafter\n"


def test_results_and_page_are_there(done: subprocess.CompletedProcess, folder: Path) -> None:
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in (folder / "out/evaluation/results.jsonl").read_text().splitlines()]
    assert {result["data"] for result in results} == set(SETS)
    assert len(results) % len(SETS) == 0
    refused = [(result["paper"], result["data"]) for result in results if "not_applicable" in result]
    assert refused == [("osrt", "multi_dsprites"), ("osrt", "obj3d")]
    assert (folder / "out/report/index.html").stat().st_size > 10_000
    assert len(list((folder / "out/report/galleries").iterdir())) >= len(results) - len(refused)


def test_finished_steps_are_skipped(
    run: Runner, done: subprocess.CompletedProcess, folder: Path, tmp_path: Path
) -> None:
    assert done.returncode == 0, done.stderr
    again = run(SCRIPT, "--quick", "--out", folder / "out")
    assert again.returncode == 0, again.stderr
    assert "$ python" not in again.stdout
    steps = json.loads((folder / "out/steps.json").read_text())
    assert all(step["finished"] and step["seconds"] > 0 for step in steps.values())
    assert again.stdout.count(": finished before\n") == len(steps) >= 3 + 8 + 2
    (tmp_path / "README.md").write_text("no markers")
    refused = run(SCRIPT, "--quick", "--out", folder / "out", "--readme", tmp_path / "README.md")
    assert refused.returncode == 1
    assert "has no lines <!-- leaderboard -->" in refused.stderr


def test_the_sweep_prints_one_table(run: Runner, tmp_path: Path) -> None:
    swept = run("bash", ROOT / "examples/leaderboard/sweep.sh", 3, OUT=tmp_path / "sweep", timeout=900)
    assert swept.returncode == 0, swept.stderr
    results = [json.loads(line) for line in (tmp_path / "sweep/evaluation/results.jsonl").read_text().splitlines()]
    assert len(results) == 3 * 2 * 2
    assert len({(result["run"], result["data"]) for result in results}) == 12
