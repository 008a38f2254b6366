"""tools/evaluate.py as a user types it: runs of several papers on several data sets, resumed, shared out, refused."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from core.benchmark.evaluation import stamp_of
from core.data.spec import DataSpec
from core.nn.noise import ImageNoise, derive_seed
from core.runs import load_model
from tests.benchmark_runs import QUICK_SETS, BenchmarkRuns
from tests.conftest import MadeOnce, Runner

RUNS = ("emorl_slot_attention", "savi", "osrt")
DATA = ("tetrominoes", "obj3d-(64,64)")


@pytest.fixture(scope="module")
def runs(run: Runner, made_once: MadeOnce, generated: Callable[..., Path]) -> BenchmarkRuns:
    return BenchmarkRuns(run, made_once, generated("benchmark-quick", *QUICK_SETS))


def words(runs: BenchmarkRuns, out: Path, *flags: object, data: tuple[str, ...] = DATA) -> list[object]:
    folders = [runs[name] for name in RUNS]
    return ["tools/evaluate.py", *folders, "--data", *data, "--data-root", runs.data, "--out", out, *flags]


def results_in(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def evaluated(run: Runner, runs: BenchmarkRuns, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an evaluation, and what it printed."""
    out = tmp_path_factory.mktemp("evaluated") / "evaluation"
    done = run(*words(runs, out))
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_every_pair_has_a_result(runs: BenchmarkRuns, evaluated: tuple[Path, str]) -> None:
    results = results_in(evaluated[0])
    assert [(entry["model"], entry["data"]) for entry in results] == [
        (model, data) for data in DATA for model in ("SlotAttention", "StoSAVi", "OSRT")
    ]
    assert [entry["num_samples"] for entry in results] == [8, 8, 0, 2, 2, 0]
    of_pictures, of_videos = results[0], results[4]
    assert (of_videos["paper"], of_videos["steps"], of_videos["kind"]) == ("slotformer", 40, "videos")
    assert of_videos["run"] == str(runs["savi"])
    assert of_videos["protocol"]["name"] == "objectcentric-1"
    pictures = {"fg_ari", "ari", "miou", "mbo", "mse", "psnr", "ssim", "slots_used", "slot_entropy"}
    assert set(of_pictures["scores"]) == pictures
    assert set(of_videos["scores"]) == pictures | {"video_fg_ari", "video_ari", "video_miou", "video_mbo"}
    for entry in results:
        for score in entry["scores"].values():
            assert score["low"] <= score["mean"] <= score["high"]


def test_models_that_need_cameras_have_a_row_that_says_so(evaluated: tuple[Path, str]) -> None:
    out, printed = evaluated
    reason = "OSRT needs several views of a scene with their cameras, videos have none"
    assert results_in(out)[-1]["not_applicable"] == reason
    assert f"not applicable: {reason}" in printed
    assert f"not applicable: {reason}" in (out / "results.md").read_text()


def test_samples_and_tables_say_the_same(evaluated: tuple[Path, str]) -> None:
    out, printed = evaluated
    table = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    for row, entry in zip(table, results_in(out), strict=True):
        assert (row["run"], row["data"]) == (entry["run"], entry["data"])
        if "not_applicable" in entry:
            continue
        with np.load(out / entry["samples"]) as samples:
            assert samples["index"].tolist() == list(range(entry["num_samples"]))
            for name, score in entry["scores"].items():
                assert score["mean"] == pytest.approx(np.nanmean(samples[name]), abs=1e-12)
                assert float(row[f"{name}_mean"]) == score["mean"]
    assert "protocol objectcentric-1" in printed
    assert "true label 0 is background" in printed
    assert not (out / "partial").exists()


def test_the_scores_are_those_of_another_computation(runs: BenchmarkRuns, evaluated: tuple[Path, str]) -> None:
    model, record = load_model(runs["savi"])
    source = DataSpec.parse("obj3d-(64,64)").open_whole("test", runs.data)
    batch = source.read(np.arange(2))
    with torch.no_grad():
        noise = ImageNoise(derive_seed(record.seed, 3), range(2)).at(0, torch.device("cpu"))
        found = model.decompose({"video": batch["video"].float() / 255}, noise)
    predicted, truth = found.masks.argmax(dim=2).numpy(), batch["mask"].numpy()
    assert predicted.shape == truth.shape == (2, 6, 64, 64)

    def fg_ari(labels: np.ndarray, slots: np.ndarray) -> float:
        return adjusted_rand_score(labels[labels > 0], slots[labels > 0])

    by_frame = [
        np.mean([fg_ari(*frame) for frame in zip(*video, strict=True) if (frame[0] > 0).any()])
        for video in zip(truth, predicted, strict=True)
    ]
    whole = [fg_ari(*video) for video in zip(truth, predicted, strict=True)]
    error = (found.recon - batch["video"].float() / 255).double().square().mean().item()
    scores = results_in(evaluated[0])[4]["scores"]
    assert scores["fg_ari"]["mean"] == pytest.approx(np.mean(by_frame), abs=1e-6)
    assert scores["video_fg_ari"]["mean"] == pytest.approx(np.mean(whole), abs=1e-6)
    assert scores["mse"]["mean"] == pytest.approx(error, rel=1e-5)


def test_the_same_command_scores_only_what_is_missing(
    run: Runner, runs: BenchmarkRuns, evaluated: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "evaluation"
    shutil.copytree(evaluated[0], out)
    first, *others = results_in(out)
    (out / "results.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in others))
    # As if the first pair had been stopped behind six of its eight samples, with figures that cannot be computed.
    (out / "partial").mkdir()
    rows = [{"index": index, "scores": {"fg_ari": 7.0}} for index in range(6)]
    stamp = stamp_of(first["content"], first["lpips"])
    (out / "partial" / f"{first['key']}-{stamp}.0.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"in'
    )
    done = run(*words(runs, out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("already scored") == 3
    found = {entry["key"]: entry for entry in results_in(out)}
    assert [found[entry["key"]] for entry in others] == others
    with np.load(out / first["samples"]) as samples, np.load(evaluated[0] / first["samples"]) as wanted:
        assert samples["fg_ari"][:6].tolist() == [7.0] * 6
        np.testing.assert_allclose(samples["fg_ari"][6:], wanted["fg_ari"][6:], atol=1e-6)
    assert not (out / "partial").exists()


def test_processes_share_the_samples(
    run: Runner, runs: BenchmarkRuns, evaluated: tuple[Path, str], tmp_path: Path
) -> None:
    launch = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0)
    flags = ("--batch-size", 1, "--limit", 4)
    alone = run(*words(runs, tmp_path / "one", *flags))
    assert alone.returncode == 0, alone.stderr
    together = run(sys.executable, "-m", *launch, *words(runs, tmp_path / "two", *flags))
    assert together.returncode == 0, together.stderr
    for one, two in zip(*(results_in(tmp_path / name) for name in ("one", "two")), strict=True):
        one.pop("seconds", None)
        two.pop("seconds", None)
        assert one == two
    assert results_in(tmp_path / "two")[0]["num_samples"] == 4


def test_frames_splits_sizes_and_masks_alone(run: Runner, runs: BenchmarkRuns, tmp_path: Path) -> None:
    flags = ("--frames", 2, "--split", "val", "--size", 32, 48, "--no-pictures", "--limit", 1)
    done = run(*words(runs, tmp_path, *flags, data=("obj3d",)))
    assert done.returncode == 0, done.stderr
    result = results_in(tmp_path)[1]
    assert (result["data"], result["num_samples"]) == ("obj3d-(32,48)", 1)
    assert (result["protocol"]["frames"], result["protocol"]["split"]) == (2, "val")
    assert "mse" not in result["scores"]
    assert "video_fg_ari" in result["scores"]
    assert "split val, the first 2 frames of videos" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--data", "tetrominos"), "did you mean 'tetrominoes'"),
        (("--data", "tetrominoes-(8,8)", "--size", "9", "9"), "contradict each other"),
        (("--data", "clevr"), "no data set clevr"),
        (("--device", "abacus"), "--device 'abacus'"),
    ],
)
def test_errors_come_before_anything_is_computed(
    run: Runner, runs: BenchmarkRuns, tmp_path: Path, change: tuple[str, ...], message: str
) -> None:
    done = run("tools/evaluate.py", runs["savi"], *words(runs, tmp_path / "out")[4:], *change)
    assert done.returncode == 1, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_missing_and_damaged_weights_stop_everything(run: Runner, runs: BenchmarkRuns, tmp_path: Path) -> None:
    for run_of in ("savi", "osrt"):
        shutil.copytree(runs[run_of], tmp_path / run_of)
    (tmp_path / "osrt" / "model.pt").write_bytes(b"nothing")
    rest = words(runs, tmp_path / "out")[4:]
    damaged = run("tools/evaluate.py", runs["savi"], tmp_path / "osrt", *rest)
    assert damaged.returncode == 1
    assert "osrt/model.pt: not a readable checkpoint" in damaged.stderr
    missing = run("tools/evaluate.py", runs["savi"], tmp_path / "nowhere", *rest)
    assert missing.returncode == 1
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in missing.stderr
    assert not (tmp_path / "out").exists()


def test_a_misspelt_flag_gets_the_nearest(run: Runner, tmp_path: Path) -> None:
    done = run("tools/evaluate.py", tmp_path, "--data", "obj3d", "--frame", 3)
    assert done.returncode == 2
    assert "did you mean '--frames'?" in done.stderr
