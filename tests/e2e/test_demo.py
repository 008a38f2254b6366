"""The demonstration, in small: every stage runs and leaves what it promises."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Runner


def demo(run: Runner, out: Path, *options: object):
    return run("tools/demo.py", "--out", out, "--steps", 12, "--train", 64, "--test", 8, "--seed", 3, *options)


def test_demo_leaves_result_and_picture(run: Runner, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = demo(run, out, "--processes", 1)
    assert done.returncode == 0, done.stderr
    for stage in ("1/4", "2/4", "3/4", "4/4", "What to try next"):
        assert stage in done.stdout
    result = json.loads((out / "result.json").read_text())
    assert result["steps"] == 12
    assert result["seed"] == 3
    assert -1 <= result["fg_ari"] <= 1
    assert 0 < result["mse"] < 1
    assert result["train_seconds"] > 0
    with Image.open(out / "result.png") as picture:
        assert picture.width > 500
        assert picture.height > 500
    first = (out / "result.json").read_text()
    again = demo(run, out, "--processes", 1)
    assert again.returncode == 0, again.stderr
    assert (out / "result.json").read_text() == first


@pytest.mark.slow
def test_demo_reaches_its_score(run: Runner, tmp_path: Path) -> None:
    done = run("tools/demo.py", "--out", tmp_path / "demo", timeout=1800, OMP_NUM_THREADS=1)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "demo" / "result.json").read_text())["fg_ari"] >= 0.9
