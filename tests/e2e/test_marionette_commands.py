"""MarioNette's own commands as a user types them: what they print, write and compute."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clevrtex.original.marionette import to_original
from core.runs import load_model
from core.training.checkpoint import load
from tests.clevrtex_runs import losses, rows
from tests.conftest import Runner

SIDE, PER_EPOCH = 32, 4
SMALL = ("--canvas_size", SIDE, "--layer_size", 4, "--num_classes", 6, "--dim_z", 32, "--bs", 4)
TERMS = {"loss", "rec_loss", "psnr", "beta_loss", "probs_loss", "psnr_hard"}
VALIDATED = {"mse", "bg_mse", "slot_mse", "miou", "dice", "ari", "ari_fg", "ari2", "ari2_fg", "acc", "cnt", "epoch"}
PICTURES = {"out_output_diff", "out_hard_output_diff", "dictionary", "background", "recon", "segmentation"}


def train_words(data: Path, *flags: object) -> list[object]:
    """16 pictures, which are four batches."""
    common = ("--data", "clevrtex:full-crop", "--data_root", data, "--num_worker_threads", 0)
    return [sys.executable, "-m", "clevrtex.marionet.train", *common, *SMALL, *flags]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder / "model/training_end.pth")["model"]


def assert_same_weights(found: Path, wanted: Path) -> None:
    ours, theirs = weights(found), weights(wanted)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []


def evaluate(run: Runner, *words: object) -> str:
    done = run(sys.executable, "-m", "clevrtex.marionet.evaluate", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(run: Runner, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three epochs."""
    folder = tmp_path_factory.mktemp("marionet") / "run"
    done = run(*train_words(scenes, "--checkpoint-dir", folder, "--num_steps", 13))
    assert done.returncode == 0, done.stderr
    assert f"finished; results are in {folder}" in done.stdout
    return folder


def test_files_of_a_training(trained: Path) -> None:
    files = {str(path.relative_to(trained)) for path in trained.rglob("*.pth")}
    assert files == {f"{part}/{name}.pth" for part in ("model", "bg") for name in ("epoch_2", "training_end")}
    state = load(trained / "model/training_end.pth")
    assert (state["step"], state["extras"]) == (3 * PER_EPOCH - 1, {"epoch": 3}), "13 steps are three whole epochs"
    background = load(trained / "bg/training_end.pth")["model"]
    assert background["latent"].equal(state["model"]["background.latent"])
    assert background["decode.3.weight"].shape == (3 * SIDE**2, 128)
    model, record = load_model(trained)
    assert (record.paper, record.seed, record.data["spec"]) == ("clevrtex", 2, "clevrtex:full-crop-(32,32)")
    assert all(value.equal(state["model"][name]) for name, value in model.state_dict().items())


def test_scalars_and_pictures(trained: Path) -> None:
    curve = losses(trained)
    assert len(curve) == 3 * PER_EPOCH
    assert sum(curve[-PER_EPOCH:]) < sum(curve[:PER_EPOCH]), "the loss falls"
    of_steps = [row for row in rows(trained) if "loss" in row]
    assert of_steps[0].keys() >= TERMS
    assert of_steps[1].keys() == {"step", "loss"}
    scores = [row for row in rows(trained) if "mse" in row]
    assert [row["step"] for row in scores] == [3, 7, 11]
    assert scores[-1]["mse"] < scores[0]["mse"]
    events = EventAccumulator(str(trained), size_guidance={"images": 0}).Reload()
    assert set(events.Tags()["scalars"]) == TERMS | VALIDATED | {"train/lr"}
    assert set(events.Tags()["images"]) == PICTURES
    picture = events.Images("out_output_diff")[0]
    assert (picture.width, picture.height) == (5 * (SIDE + 2) + 2, 4 * (SIDE + 2) + 2)


def test_continued_is_uninterrupted(run: Runner, trained: Path, scenes: Path, tmp_path: Path) -> None:
    for steps in (8, 13):
        done = run(*train_words(scenes, "--checkpoint_dir", tmp_path, "--num_steps", steps))
        assert done.returncode == 0, done.stderr
    assert f"continuing {tmp_path}/model/epoch_1.pth from step 8" in done.stdout
    assert losses(tmp_path) == losses(trained)
    assert_same_weights(tmp_path, trained)
    again = run(*train_words(scenes, "--checkpoint_dir", tmp_path, "--num_steps", 13))
    assert again.returncode == 0
    assert "has all 12 steps. More --num_steps would continue it" in again.stdout


@pytest.mark.slow
def test_killed_is_uninterrupted(run: Runner, trained: Path, scenes: Path, tmp_path: Path) -> None:
    words = train_words(scenes, "--checkpoint_dir", tmp_path, "--num_steps", 13, "--checkpoint_every", 1)
    with subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        begin = time.monotonic()
        while not (tmp_path / "model/epoch_1.pth").exists():
            assert time.monotonic() - begin < 120
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    assert not (tmp_path / "model/training_end.pth").exists()
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "/model/epoch_1.pth from step" in done.stdout
    assert losses(tmp_path) == losses(trained)
    assert_same_weights(tmp_path, trained)


@pytest.mark.slow
def test_two_processes_equal_one(run: Runner, trained: Path, scenes: Path, tmp_path: Path) -> None:
    done = run(*train_words(scenes, "--checkpoint_dir", tmp_path, "--num_steps", 6, "--gpus", 2, "--no-cuda"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 x cpu") == 1, "the main process alone speaks"
    assert losses(tmp_path) == pytest.approx(losses(trained)[:PER_EPOCH], rel=2e-4)


@pytest.mark.slow
def test_folders_without_checkpoint_dir(run: Runner, scenes: Path, tmp_path: Path) -> None:
    """A finished run is left alone, one with other flags too; an unfinished one goes on."""
    parent = tmp_path / "output/clt_fullct/marionet"
    for flags, expected in (
        (("--num_epochs", 1), {"x"}),
        (("--num_epochs", 1), {"x", "x_0"}),
        (
            ("--num_epochs", 1, "--w_probs", 0.1, 0.2, "--background", 0, "--no_spatial_transformer"),
            {"x", "x_0", "x_1"},
        ),
    ):
        words = " ".join(f"'{word}'" for word in train_words(scenes, "--tag", "x", *flags))
        done = run("bash", "-c", f'cd "{tmp_path}" && {words}')
        assert done.returncode == 0, done.stderr
        assert {path.name for path in parent.iterdir()} == expected
    assert not (parent / "x_1/bg").exists(), "there is no dictionary of backgrounds"
    state = load(parent / "x_1/model/training_end.pth")
    assert state["config"]["w_probs"] == [0.1, 0.2]
    assert state["run"]["arguments"]["arguments"]["num_backgrounds"] == 0


@pytest.mark.slow
def test_weights_to_start_from(run: Runner, trained: Path, scenes: Path, tmp_path: Path) -> None:
    """Of another run of ours, and of the original's two files."""
    theirs = to_original(weights(trained))
    for part, prefix in (("model", "model."), ("bg", "background.")):
        (tmp_path / part).mkdir()
        of_part = {key.removeprefix(prefix): value for key, value in theirs.items() if key.startswith(prefix)}
        torch.save({"model": of_part, "meta": None, "extras": {"epoch": 1}}, tmp_path / part / "epoch_0.pth")
    flags = ("--num_epochs", 1, "--lr", 1e-9, "--lr_bg", 1e-9)
    for name, folder, file in (("a", trained, "training_end.pth"), ("b", tmp_path, "epoch_0.pth")):
        given = ("--load_model", folder / "model" / file, "--load_bg", folder / "bg" / file)
        done = run(*train_words(scenes, "--checkpoint_dir", tmp_path / name, *flags, *given))
        assert done.returncode == 0, done.stderr
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    found, wanted = weights(tmp_path / "a"), weights(trained)
    assert all(value.allclose(wanted[name], atol=1e-5) for name, value in found.items())

    evaluate(run, tmp_path / "model/epoch_0.pth", "--data", "clevrtex:full-crop", "--data_root", scenes)
    evaluate(run, tmp_path / "a", "--data", "clevrtex:full")
    ours, theirs = (
        json.loads((tmp_path / f"{name}-clt_fullct.json").read_text())
        for name in ("a/evaluation", "model/epoch_0-evaluation")
    )
    assert (ours["weights"], theirs["weights"]) == ("ours", "original")
    for name, found in ours["statistics"].items():
        assert found["mean"] == pytest.approx(theirs["statistics"][name]["mean"], rel=1e-3), name
    silent = run(sys.executable, "-m", "clevrtex.marionet.evaluate", tmp_path / "model/epoch_0.pth")
    assert silent.returncode == 1
    assert "which does not write down its data. Name them with --data" in silent.stderr


def test_evaluation(run: Runner, trained: Path, scenes: Path) -> None:
    stdout = evaluate(run, trained, "--data", "clevrtex:full", "clevr", "--bs", 3)
    for name, count in (("clt_fullct", 2), ("clect", 3)):
        found = json.loads((trained / f"evaluation-{name}.json").read_text())
        assert (found["num_images"], found["model"], found["steps"], found["seed"]) == (count, "marionette", 12, 2)
        mean = found["statistics"]["MSE"]["mean"]
        assert f"{mean:.4g}" in stdout
        assert 0 < found["statistics"]["ARI_FG"]["mean"] <= 1
    assert "protocol: hard masks at the resolution of the labels" in stdout
    one = evaluate(run, trained / "model/epoch_2.pth", "--limit", 1)
    assert "1 of 2 pictures of the test split" in one
    assert (trained / "model/epoch_2-evaluation-clt_fullct.json").exists()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--layer-sise", 4), 2, "no flag '--layer_sise'; did you mean '--layer_size'?"),
        (("--shuffle_all",), 2, "--shuffle_all: the original stops with an error"),
        (("--server", "http://localhost"), 2, "--server: had no effect; scalars and pictures go to TensorBoard"),
        (("--bs", 0), 2, "--bs: expected a whole number of at least 1, found '0'"),
        (("--dim_bg", 4), 1, "--dim_bg 4: expected a multiple of 8 that is at least 16"),
        (("--data", "clevrtex:camo-crop"), 1, "no data set clevrtex:camo: looked for"),
    ],
    ids=str,
)
def test_misuse(run: Runner, scenes: Path, tmp_path: Path, flags: tuple, code: int, message: str) -> None:
    done = run(*train_words(scenes, "--checkpoint_dir", tmp_path / "run", *flags))
    assert done.returncode == code, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_other_flags_in_an_old_folder(run: Runner, trained: Path, scenes: Path) -> None:
    done = run(*train_words(scenes, "--checkpoint_dir", trained, "--w_beta", 1))
    assert done.returncode == 1
    assert "of a run with other flags:\n  w_beta: 0.002 -> 1.0\nGive the flags that it was started with" in done.stderr
