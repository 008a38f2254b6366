"""The evaluation of trained runs as a user types it: what it prints, writes and computes."""

import csv
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clevrtex.models import build_model
from clevrtex.original.slota import to_original
from core.data.loader import evaluation_batches
from core.data.spec import DataSpec
from core.metrics.clevrtex import clevrtex_statistics
from core.nn.noise import derive_seed, seeded_noise
from core.runs import RunRecord, load_model
from core.training.checkpoint import load, save
from tests.clevrtex_runs import folder_of, train_words
from tests.clevrtex_scenes import MATERIALS, write_scenes
from tests.conftest import ROOT, Runner

SIZE, SLOTS = 32, 4
OWN, OUTD = (f"clevrtex:{variant}-crop-({SIZE},{SIZE})" for variant in ("full", "outd"))
EVALUATE = "clevrtex/evaluate.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 scenes, of which ten are for testing, and nine of the variant outd, which nothing describes."""
    folder = tmp_path_factory.mktemp("data")
    write_scenes(folder)
    return write_scenes(folder, "outd", 9, descriptions=False)


@pytest.fixture(scope="module")
def runs(run: Runner, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Slot Attention of two seeds after four steps each."""
    out = tmp_path_factory.mktemp("output")
    for seed in (1, 2):
        flags = ("--max_steps", 4, "--batch_size", 4, "--seed", seed, "--tag", f"seed_{seed}", "--nowatermark")
        done = run(*train_words("slota", data, out, *flags, size=SIZE))
        assert done.returncode == 0, done.stderr
    return [folder_of("slota", out, f"seed_{seed}") for seed in (1, 2)]


def evaluate(run: Runner, *words: object) -> str:
    done = run(EVALUATE, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def failure(run: Runner, *words: object) -> str:
    """The one line that a user sees when it fails."""
    done = run(EVALUATE, *words)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def means(statistics: dict) -> dict[str, float]:
    return {name: found["mean"] for name, found in statistics.items()}


def test_one_run_on_all_that_is_there(run: Runner, runs: list[Path], data: Path) -> None:
    stdout = evaluate(run, runs[0], "--latex")
    assert "left out, since they are not on disk: clevrtex:camo, clevrtex:pbg, clevrtex:vbg, clevrtex:gr" in stdout
    assert f"run 1: {runs[0]}/checkpoints/best.ckpt, slota after 4 steps on {OWN}" in stdout
    assert "protocol: hard masks at the resolution of the labels; MSE summed over channels and pixels" in stdout
    written = {path.name for path in runs[0].glob("evaluation*")}
    parts = {f"evaluation-{name}.{kind}" for name in ("clt_fullct", "clt_outdct") for kind in ("json", "png")}
    assert written == parts | {"evaluation.json", "evaluation.csv"}

    found = read(runs[0] / "evaluation-clt_fullct.json")
    assert (found["num_images"], found["data"], found["trained_on"], found["seed"]) == (10, OWN, OWN, 1)
    assert {name: row["count"] for name, row in found["by_tag"]["obj_iou"]["material"].items()} == dict.fromkeys(
        MATERIALS, 10
    )
    assert "ground_iou by ground_material: " in stdout
    assert read(runs[0] / "evaluation-clt_outdct.json")["by_tag"] == {}
    assert read(runs[0] / "evaluation-clt_outdct.json")["num_images"] == 9, "the whole of it is for testing"
    for name, images in (("full", 8), ("outd", 8)):
        with Image.open(runs[0] / f"evaluation-clt_{name}ct.png") as sheet:
            assert sheet.size == ((4 + SLOTS) * (SIZE + 2) + 2, images * (SIZE + 2) + 2)

    summary = read(runs[0] / "evaluation.json")
    assert list(summary["data"]) == [OWN, OUTD]
    assert means(summary["data"][OWN]["statistics"]) == means(found["statistics"])
    rows = list(csv.DictReader((runs[0] / "evaluation.csv").open()))
    assert [(row["data"], row["run"]) for row in rows] == [
        (name, which) for name in (OWN, OUTD) for which in (f"{runs[0]}/checkpoints/best.ckpt", "mean")
    ]
    row = [format(found["statistics"][name]["mean"], ".5f") for name in ("acc", "ARI", "ARI_FG", "mIoU_fg", "MSE")]
    assert rf"clt\_fullct & {' & '.join(f'${cell}$' for cell in row)} \\" in stdout.splitlines()


def test_figures_are_those_of_the_model(run: Runner, runs: list[Path], data: Path) -> None:
    evaluate(run, runs[0], "--checkpoint", "last", "--data", "clevrtex:outd")
    statistics = read(runs[0] / "evaluation-clt_outdct.json")["statistics"]
    model, record = load_model(runs[0])
    source = DataSpec.parse(OUTD).open("test", data, masks=True)
    noise = seeded_noise(derive_seed(record.seed, 3), torch.device("cpu"))
    (batch,) = evaluation_batches(source, 9, torch.device("cpu"))
    with torch.no_grad():
        prediction = model.decompose(batch, noise(range(9)))
    found = clevrtex_statistics(prediction.recon, prediction.masks, batch["image"], batch["mask"])
    assert found.keys() == statistics.keys()
    for name, values in found.items():
        assert statistics[name]["mean"] == pytest.approx(float(values.mean()), rel=1e-5), name


def test_the_validation_says_the_same(run: Runner, runs: list[Path], data: Path, tmp_path: Path) -> None:
    """The variant outd is one set: its validation and its test are of the same pictures."""
    words = train_words("slota", data, tmp_path, "--max_steps", 2, "--batch_size", 4, "--nowatermark", size=SIZE)
    words[3] = OUTD
    assert run(*words).returncode == 0
    folder = folder_of("slota", tmp_path)
    evaluate(run, folder, "--data", "clevrtex:outd")
    statistics = read(folder / "evaluation-clt_outdct.json")["statistics"]
    validated = load(folder / "checkpoints/best.ckpt")["validation"]["scores"]
    for name, theirs in {"mse": "MSE", "miou": "mIoU_fg", "dice": "DICE_FG", "ari": "ARI", "ari_fg": "ARI_FG"}.items():
        assert validated[name] == pytest.approx(statistics[theirs]["mean"], rel=1e-5), name


def test_several_runs(run: Runner, runs: list[Path], tmp_path: Path) -> None:
    words = ("--data", "clevrtex:full", "--as-original", "--limit", 6, "--batch_size", 3, "--latex")
    stdout = evaluate(run, *runs, *words)
    both = [read(folder / "evaluation-clt_fullct.json") for folder in runs]
    assert [(found["num_images"], found["batch_size"], found["seed"]) for found in both] == [(6, 3, 1), (6, 3, 2)]
    summary = read(runs[0].parent / "evaluation.json")
    assert [found["checkpoint"] for found in summary["runs"]] == [f"{folder}/checkpoints/best.ckpt" for folder in runs]
    statistics = summary["data"][OWN]["statistics"]
    assert {"mSC", "mSC_original", "mIoU_fg_original", "DICE_FG_original"} <= statistics.keys()
    for name, over in statistics.items():
        values = [found["statistics"][name]["mean"] for found in both]
        assert over == {"mean": np.mean(values), "std": np.std(values), "runs": values}, name
    assert statistics["MSE"]["std"] > 0
    stone = [found["by_tag"]["obj_iou"]["material"]["stone"]["mean"] for found in both]
    assert summary["data"][OWN]["by_tag"]["obj_iou"]["material"]["stone"]["runs"] == stone
    assert "mIoU_fg_original" in stdout
    (row,) = (line for line in stdout.splitlines() if line.startswith(r"clt\_fullct & "))
    assert row.endswith(rf"${statistics['MSE']['mean']:.5f} \pm {statistics['MSE']['std']:.5f}$ \\")
    assert row.count(r"\pm") == 5
    again = evaluate(run, *runs, *words, "--out", tmp_path / "paper")
    assert read(tmp_path / "paper/evaluation.json") == summary, "deterministic"
    assert again.splitlines()[:-1] == stdout.splitlines()[:-1]


def test_any_other_data(run: Runner, runs: list[Path], tetrominoes: Path) -> None:
    weights = runs[1] / "checkpoints/last.ckpt"
    stdout = evaluate(run, weights, "--data", "tetrominoes", "--data-root", tetrominoes, "--limit", 5)
    assert f"tetrominoes-crop-({SIZE},{SIZE}): 5 of 64 pictures of the test split" in stdout
    found = read(weights.with_name("last-evaluation-tetrominoesct.json"))
    assert (found["num_images"], found["by_tag"]) == (5, {})
    assert {path.name for path in weights.parent.glob("last-evaluation*")} == {
        "last-evaluation.csv",
        "last-evaluation.json",
        "last-evaluation-tetrominoesct.json",
        "last-evaluation-tetrominoesct.png",
    }


def write_lightning(path: Path, weights: dict, hyper_parameters: dict, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint as PyTorch Lightning 1.2 wrote it for the original: callbacks' states stand under their classes."""

    def stand_in(module: str, name: str) -> type:
        parts = module.split(".")
        for depth in range(1, len(parts) + 1):
            parent = ".".join(parts[:depth])
            monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent) or types.ModuleType(parent))
        kind = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, kind)
        return kind

    callbacks = {
        stand_in("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): {
            "monitor": "mse",
            "best_model_score": torch.tensor(1.0),
            "best_model_path": "output/clecm/slota/test/checkpoints/best.ckpt",
        },
        stand_in("framework.base_experiment", "CheckPointPNRG"): {
            "numpy": ("MT19937", np.arange(624, dtype=np.uint32), 624, 0, 0.0),
            "cuda": [torch.zeros(16, dtype=torch.uint8)],
        },
    }
    content = {
        "epoch": 1,
        "global_step": 17,
        "pytorch-lightning_version": "1.2.9",
        "state_dict": {f"model.{name}": value for name, value in weights.items()},
        "callbacks": callbacks,
        "hparams_name": "kwargs",
        "hyper_parameters": hyper_parameters,
    }
    torch.save(content, path)
    return path


def test_weights_of_the_original_give_the_same_figures(
    run: Runner, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"image_size": [SIZE, SIZE], "num_slots": 3, "num_iterations": 2, "decoder_initial_size": [8, 8]}
    torch.manual_seed(0)
    model = build_model("slot_attention:SlotAttention", arguments)
    record = RunRecord(
        paper="clevrtex",
        builder="clevrtex.models:build_model",
        arguments={"path": "slot_attention:SlotAttention", "arguments": arguments},
        data={"spec": OWN, "root": str(data)},
        seed=5,
    )
    ours, theirs = tmp_path / "ours.ckpt", tmp_path / "theirs.ckpt"
    save(ours, {"model": model.state_dict(), "run": record.to_dict(), "hparams": {"batch_size": 2}})
    # Names and defaults of the original's constructor.
    hparams = {"tag": "test", "seed": 5, "data": OWN, "batch_size": 2, "slots": 3, "num_iter": 2, "lr": "warm(5)"}
    weights = to_original(model.state_dict()) | {"encoder_pos.grid": torch.zeros(1, 4, SIZE, SIZE)}
    write_lightning(theirs, weights, hparams, monkeypatch)

    few = ("--data", "clevrtex:full", "--limit", 3)
    stdout = evaluate(run, theirs, "--experiment", "slota", *few, "--data_root", data)
    assert f"{theirs}, the original code's slota after 17 steps on {OWN}" in stdout
    assert "after an unknown number of steps" in evaluate(run, ours, *few)
    found, wanted = (read(tmp_path / f"{name}-evaluation-clt_fullct.json") for name in ("theirs", "ours"))
    assert (found["weights"], wanted["weights"]) == ("original", "ours")
    assert found["statistics"] == wanted["statistics"]
    assert found["by_tag"] == wanted["by_tag"]

    message = failure(run, theirs)
    assert "Say so with --experiment, one of dtisprites, effmorl, genesisv2" in message
    message = failure(run, theirs, "--experiment", "iodine")
    assert "theirs.ckpt: not a checkpoint of the original's iodine" in message


def test_what_goes_wrong_is_said_in_one_line(run: Runner, runs: list[Path], data: Path, tmp_path: Path) -> None:
    assert failure(run, tmp_path) == (
        f"error: {tmp_path}: expected best.ckpt or last.ckpt in {tmp_path}, found no checkpoint. Give the folder of a "
        "run that has saved one, or a checkpoint file"
    )
    message = failure(run, runs[0], "--data", "clevrtex:camo")
    assert f"no data set clevrtex:camo: looked for {data}/clevrtex_camo" in message
    assert "`python tools/make_data.py clevrtex --root data" in message
    assert "did you mean 'clevrtex'?" in failure(run, runs[0], "--data", "clevrtx:full")
    assert "expected a model of --experiment monet, found slot_attention:Sl" in failure(
        run, runs[0], "--experiment", "monet"
    )
    whole = (runs[0] / "checkpoints/last.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    assert f"{tmp_path}/half.ckpt: not a readable checkpoint" in failure(run, tmp_path / "half.ckpt")
    misspelt = run(EVALUATE, runs[0], "--as-orignal")
    assert misspelt.returncode == 2
    assert misspelt.stderr.endswith("error: no flag '--as_orignal'; did you mean '--as_original'?\n")


def test_help_needs_no_torch(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    done = run(EVALUATE, "--help", PYTHONPATH=tmp_path)
    assert done.returncode == 0, done.stderr
    for flag in ("--data", "--data_root", "--checkpoint", "--experiment", "--limit", "--batch_size", "--device"):
        assert flag in done.stdout
    assert "(int, default: all)" in done.stdout


def test_the_notebook_runs(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat

    monkeypatch.setenv("CLEVRTEX_RUN", str(runs[0]))
    notebook = nbformat.read(ROOT / "clevrtex/evaluation.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}})
    client.execute()  # raises on an error in any cell
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3, "two sheets, and bars of the one set that is described"
    assert min(map(len, pictures)) > 5000
    printed = "".join(output.get("text", "") for output in outputs)
    assert "mIoU_fg" in printed
    assert r"clt\_outdct & $" in printed
