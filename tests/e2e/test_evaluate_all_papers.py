"""Ten models of all five papers on four data sets in one command; what the papers' own commands print is the same."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.spec import DataSpec
from core.runs import load_model
from tests import osrt_runs, slotdiffusion_runs, tiny_runs
from tests.benchmark_runs import SETS, BenchmarkRuns
from tests.conftest import MadeOnce, Runner
from tests.slotformer_runs import newest

pytestmark = pytest.mark.slow
MODELS = (
    *("emorl", "emorl_slot_attention", "slota", "genesisv2", "marionet", "savi"),
    *("sa_ldm", "savi_ldm", "steve", "osrt"),
)
DATA = ("tetrominoes", "clevrtex:full-crop", "movi:d", "clevr3d")
CLOSE = {"rel": 1e-4, "abs": 1e-4}


@pytest.fixture(scope="module")
def runs(run: Runner, made_once: MadeOnce, generated: Callable[..., Path]) -> BenchmarkRuns:
    return BenchmarkRuns(run, made_once, generated("benchmark", *SETS))


@pytest.fixture(scope="module")
def results(run: Runner, runs: BenchmarkRuns, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict]:
    """By model and data."""
    folders, out = {str(runs[name]): name for name in MODELS}, tmp_path_factory.mktemp("evaluation")
    words = ("--data", *DATA, "--data-root", runs.data, "--as-original", "--batch-size", 3, "--out", out)
    done = run("tools/evaluate.py", *folders, *words, timeout=900)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    return {(folders[entry["run"]], entry["data"]): entry for entry in lines}


def original(results: dict, model: str, data: str) -> dict[str, float]:
    return results[model, data]["original"]["scores"]


def assert_holds(found: dict[str, float], wanted: dict[str, float]) -> None:
    """`found` has all of `wanted`, and the same."""
    assert {name: found.get(name) for name in wanted} == pytest.approx(wanted, **CLOSE, nan_ok=True)


def test_all_models_are_scored_on_all_data(results: dict) -> None:
    assert results.keys() == {(model, data) for model in MODELS for data in DATA}
    for (model, data), result in results.items():
        if model == "osrt" and data != "clevr3d":
            assert result["not_applicable"].startswith("OSRT needs several views")
            continue
        scores = result["scores"]
        assert {"fg_ari", "ari", "miou", "mbo", "mse", "psnr", "slots_used", "slot_entropy"} <= set(scores)
        assert ("video_fg_ari" in scores) == (data == "movi:d" or (model == "osrt"))
        assert all(of["n"] == result["num_samples"] for name, of in scores.items() if name in ("ari", "mse"))
        assert result["original"]["difference"]
    assert len({result["paper"] for result in results.values()}) == 5
    assert len({result["protocol"]["name"] for result in results.values()}) == 1


@pytest.mark.parametrize(("model", "config"), [("emorl", "EMORL"), ("emorl_slot_attention", "SlotAttention")])
def test_as_emorl_prints_it(
    run: Runner, runs: BenchmarkRuns, results: dict, tmp_path: Path, model: str, config: str
) -> None:
    shutil.copytree(runs[model] / "weights", tmp_path / "weights")
    done = run(*tiny_runs.eval_words(runs.data, tmp_path, "tiny-state-5.pth", model=config))
    assert done.returncode == 0, done.stderr
    printed = tiny_runs.evaluated(tmp_path, "tiny-state-5.pth")
    wanted = {name: printed[name]["mean"] for name in ("fg_ari", "ari", "miou", "mbo", "mse", "psnr", "ssim")}
    assert_holds(original(results, model, "tetrominoes"), wanted)


@pytest.mark.parametrize("model", ["slota", "genesisv2"])
def test_as_clevrtex_prints_it(run: Runner, runs: BenchmarkRuns, results: dict, tmp_path: Path, model: str) -> None:
    weight = shutil.copy(runs[model] / "checkpoints" / "last.ckpt", tmp_path)
    words = ("--data", "clevrtex:full-crop", "--data-root", runs.data, "--as-original")
    done = run("clevrtex/evaluate.py", weight, *words)
    assert done.returncode == 0, done.stderr
    assert_holds(original(results, model, "clevrtex:full-crop"), statistics_in(tmp_path))


def test_as_marionette_prints_it(run: Runner, runs: BenchmarkRuns, results: dict, tmp_path: Path) -> None:
    shutil.copytree(runs["marionet"], tmp_path / "run")
    words = ("--data", "clevrtex:full-crop", "--data-root", runs.data, "--as-original")
    done = run(sys.executable, "-m", "clevrtex.marionet.evaluate", tmp_path / "run", *words)
    assert done.returncode == 0, done.stderr
    assert_holds(original(results, "marionet", "clevrtex:full-crop"), statistics_in(tmp_path / "run"))


def statistics_in(folder: Path) -> dict[str, float]:
    """Means that an evaluation of ClevrTex wrote there."""
    (file,) = (path for path in folder.glob("*evaluation-*.json"))
    statistics = json.loads(file.read_text())["statistics"]
    assert {"MSE", "ARI_FG", "mIoU"} <= statistics.keys()
    return {name: of["mean"] for name, of in statistics.items() if of["mean"] is not None}


@pytest.mark.parametrize("model", ["savi_ldm", "steve"])
def test_as_slotdiffusion_prints_it_for_videos(
    run: Runner, runs: BenchmarkRuns, results: dict, tmp_path: Path, model: str
) -> None:
    weight = slotdiffusion_runs.copied(newest(runs[model]), tmp_path)
    words = slotdiffusion_runs.evaluation_words("test_seg", model, weight, runs.data, "--as_original")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("model-seg-*.json")
    assert_holds(original(results, model, "movi:d"), json.loads(file.read_text())["scores"]["6"])


def test_as_slotdiffusion_prints_it_for_pictures(
    run: Runner, runs: BenchmarkRuns, results: dict, tmp_path: Path
) -> None:
    weight = slotdiffusion_runs.copied(newest(runs["sa_ldm"]), tmp_path)
    words = slotdiffusion_runs.picture_evaluation_words("test_seg", "sa_ldm", weight, runs.data, "--as_original")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("model-seg-*.json")
    assert_holds(original(results, "sa_ldm", "clevrtex:full-crop"), json.loads(file.read_text())["scores"])


def test_as_osrt_prints_it(run: Runner, runs: BenchmarkRuns, results: dict, tmp_path: Path) -> None:
    shutil.copytree(runs["osrt"], tmp_path / "run")
    done = run(*osrt_runs.train_words(tmp_path / "run", runs.data, "--evalnow", "--test"))
    assert done.returncode == 0, done.stderr
    last = osrt_runs.rows(tmp_path / "run")[-1]
    wanted = {name.removeprefix("test/"): value for name, value in last.items() if name.startswith("test/")}
    assert {"psnr", "mse", "ari", "fg_ari"} <= wanted.keys()
    assert_holds(
        original(results, "osrt", "clevr3d"), {name: wanted[name] for name in ("psnr", "mse", "ari", "fg_ari")}
    )


def test_savi_by_another_computation(runs: BenchmarkRuns, results: dict) -> None:
    """SlotFormer's scripts score no base model; its loss is the squared error in [-1, 1]."""
    model, _ = load_model(runs["savi"])
    source = DataSpec.parse("movi:d-(64,64)").open_whole("test", runs.data)
    video = source.read(np.arange(len(source)))["video"].float() / 255
    with torch.no_grad():
        error = (2 * model.decompose({"video": video}).recon - 2 * video).square().mean().item()
    assert original(results, "savi", "movi:d")["post_recon_loss"] == pytest.approx(error, rel=1e-3)
