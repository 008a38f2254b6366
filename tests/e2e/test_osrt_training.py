"""OSRT's training command on generated views: train, evaluate, draw, continue, several processes, misuse."""

import importlib.util
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.data.cameras import FixedDraws, cast_rays
from core.runs import load_model
from core.training.checkpoint import load
from osrt import original
from osrt.config import load_config
from osrt.data import open_split
from osrt.evaluation import score_scenes
from osrt.train import main
from tests.conftest import ROOT, Runner
from tests.launchers import ACCELERATE, TORCHRUN
from tests.osrt_runs import largest_difference, rows, scalars, state_of, train_words


@pytest.fixture(scope="module")
def trained(run: Runner, views: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Folder and output of trainings of six iterations, by configuration, made when they are first asked for."""

    class Trained(dict):
        def __missing__(self, name: str) -> tuple[Path, str]:
            folder = tmp_path_factory.mktemp("runs") / name
            done = run(*train_words(folder, views, name=name, visualize_every=6))
            assert done.returncode == 0, done.stderr
            self[name] = folder, done.stdout
            return self[name]

    return Trained()


@pytest.mark.parametrize("name", ["clevr3d", "msn", pytest.param("obsurf_msn", marks=pytest.mark.slow)])
def test_published_configurations_train(trained, name: str) -> None:
    folder, output = trained[name]
    assert f"finished; the weights are in {folder}/model.pt" in output
    dataset, counts = {
        "clevr3d": ("CLEVR3D", (3, 24)),
        "obsurf_msn": ("OBSURF_MSN", (3, 24)),
        "msn": ("OSRT", (2, 16)),
    }[name]
    for split, count in zip(("val", "train"), counts):
        assert f"Initialized {dataset} {split} set, {count} examples" in output
    lines = [line for line in output.splitlines() if " it=" in line]
    assert [line.split(" it=")[1][:3] for line in lines] == ["000", "002", "004"]
    assert all(line.startswith(f"{folder} t=0:00:") for line in lines)
    epochs = ("00", "00", "01" if name == "msn" else "00")
    assert all(f"[Epoch {epoch}]" in line for epoch, line in zip(epochs, lines))
    assert "ari=" in lines[0]
    assert "lr=0.000000]" in lines[0]
    assert "lr=0.000100]" in lines[1]
    assert [row["step"] for row in rows(folder) if "train/loss" in row] == [0, 2, 4]
    assert {"train/mse", "train/ari", "train/fg_ari", "train/lr", "train/t"} <= rows(folder)[0].keys()
    evaluated = [row for row in rows(folder) if "val/psnr" in row]
    assert [row["step"] for row in evaluated] == [2, 5]
    assert evaluated[0].keys() == {"step", "val/psnr", "val/mse", "val/ari", "val/fg_ari"}
    assert evaluated[0]["val/psnr"] >= -10 * math.log10(evaluated[0]["val/mse"]), "a mean of logarithms"
    files = {path.name for path in folder.glob("*.p*")}
    assert files == {"model.pt", "model_best.pt", "model_4.pt", "renders-val.png", "renders-train.png"}
    state = state_of(folder)
    assert state["step"] == 5
    psnrs = scalars(folder, "val/psnr")
    assert state["best"] == max(psnrs)
    assert state_of(folder, "model_best.pt")["step"] == (2, 5)[psnrs.index(max(psnrs))]
    assert state_of(folder, "model_4.pt")["step"] == 3
    views, cell = (5, 120) if name == "msn" else (1, 128)
    with Image.open(folder / "renders-train.png") as picture:
        assert picture.width == 132 + (views + 1 + 2 * 6) * (cell + 4)
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("val/renders")] == [5]
    model, record = load_model(folder)
    assert (record.paper, record.seed) == ("osrt", 0)
    assert all(value.equal(state["model"][key]) for key, value in model.state_dict().items())


def test_the_model_learns(run: Runner, views: Path, tmp_path: Path) -> None:
    never = {"validate_every": 100, "checkpoint_every": 0, "backup_every": 0}
    done = run(*train_words(tmp_path, views, "--evalnow", max_it=60, print_every=1, **never))
    assert done.returncode == 0, done.stderr
    assert len(scalars(tmp_path, "train/loss")) == 60
    before, after = scalars(tmp_path, "val/psnr")
    assert after > before + 0.1
    assert {path.name for path in tmp_path.glob("*.pt")} == {"model.pt", "model_best.pt"}, "the end alone is saved"


def start(words: list) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / words[0]), *(str(word) for word in words[1:])]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> int:
    """Until model.pt is of that step or a later one; which."""
    end = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < end:
        if (folder / "model.pt").exists() and (found := load(folder / "model.pt")["step"]) >= step:
            return found
        time.sleep(0.01)
    raise AssertionError(f"no step {step}: {process.communicate()[0] if process.poll() is not None else 'too slow'}")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flags"), [("clevr3d", ("--checkpointing",)), ("msn", ("--bf16",))])
def test_killed_or_stopped_the_same_command_continues_bit_for_bit(
    run: Runner, views: Path, tmp_path: Path, name: str, flags: tuple
) -> None:
    changes = {"max_it": 60, "print_every": 1, "num_workers": 1, "validate_every": 20}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run(*train_words(whole, views, *flags, name=name, **changes))
    assert done.returncode == 0, done.stderr
    words = train_words(parts, views, *flags, name=name, **changes)
    process = start(words)
    wait_for_step(process, parts, 3)
    process.kill()
    process.communicate()
    process = start(words)
    wait_for_step(process, parts, load(parts / "model.pt")["step"] + 3)
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 75, output
    assert f"stopped; the weights are in {parts}/model.pt" in output
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert f"continuing from {parts}/model.pt" in done.stdout
    for value in ("train/loss", "train/fg_ari", "val/psnr", "val/fg_ari"):
        assert scalars(parts, value) == scalars(whole, value), value
    assert largest_difference(state_of(parts), state_of(whole)) == 0
    assert largest_difference(state_of(parts, "model_best.pt"), state_of(whole, "model_best.pt")) == 0


def test_a_finished_run_stays_as_it_is_and_evaluates(run: Runner, views: Path, tmp_path: Path, trained) -> None:
    folder = Path(shutil.copytree(trained["clevr3d"][0], tmp_path / "run"))
    before = state_of(folder)
    done = run(*train_words(folder, views, "--evalnow"))
    assert done.returncode == 0, done.stderr
    assert "the run has all 6 iterations" in done.stdout
    assert f"6 iterations done; best psnr so far: {before['best']:.8f}" in done.stdout
    assert largest_difference(state_of(folder), before) == 0
    psnrs = scalars(folder, "val/psnr")
    assert psnrs[-1] == psnrs[-2], "the same rays"
    done = run(*train_words(folder, views, "--evalnow", "--exit-after", 4, "--test", "--max-eval", 1))
    assert f"continuing from {folder}/model_4.pt" in done.stdout
    assert "Initialized CLEVR3D test set, 1 examples" in done.stdout
    assert "val/psnr" not in rows(folder)[-1]
    assert "test/psnr" in rows(folder)[-1]


def test_accumulation_and_checkpointing_change_rounding_alone(
    run: Runner, views: Path, tmp_path: Path, trained
) -> None:
    whole = trained["clevr3d"][0]
    done = run(*train_words(tmp_path, views, "--accumulate", 4, "--checkpointing"))
    assert done.returncode == 0, done.stderr
    assert scalars(tmp_path, "train/loss") == pytest.approx(scalars(whole, "train/loss"), rel=1e-5)
    assert scalars(tmp_path, "train/fg_ari") == pytest.approx(scalars(whole, "train/fg_ari"), abs=1e-9)
    assert scalars(tmp_path, "val/psnr") == pytest.approx(scalars(whole, "val/psnr"), rel=1e-4)


def test_two_processes_equal_one(run: Runner, views: Path, tmp_path: Path, trained) -> None:
    done = run(*train_words(tmp_path, views, "--processes", 2, name="msn"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 x cpu") == 1, "the main process alone speaks"
    whole = trained["msn"][0]
    for name in ("train/loss", "train/ari", "val/psnr", "val/fg_ari"):
        assert scalars(tmp_path, name) == pytest.approx(scalars(whole, name), rel=1e-3, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE])
def test_launchers_start_processes_too(run: Runner, views: Path, tmp_path: Path, launcher: tuple) -> None:
    words = train_words(tmp_path, views, "--local-rank=0")
    done = run(*launcher, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 x cpu") == 1


def test_evaluation_of_all_rays_in_chunks(run: Runner, views: Path, tmp_path: Path, trained) -> None:
    folder = Path(shutil.copytree(trained["clevr3d"][0], tmp_path / "run"))
    words = train_words(folder, views, "--evalnow", "--full-scale", "--visnow")
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "drew" in done.stdout
    model, _ = load_model(folder)
    data = load_config(words[1], words[3:-3]).data
    source = open_split(data, "val", full_scale=True)
    batch = cast_rays(FixedDraws(source, source.draw, 0).read(np.arange(3)))
    assert batch["target_rays"].shape == (3, 3 * 24 * 32, 3)
    with torch.no_grad():
        scores = score_scenes(model, batch, chunk=10**6)
    for name, value in scores.items():
        assert scalars(folder, f"val/{name}")[-1] == pytest.approx(float(value.mean()), rel=1e-5), name


@pytest.mark.slow
def test_an_original_checkpoint_is_continued(run: Runner, views: Path, tmp_path: Path, trained) -> None:
    state = state_of(trained["clevr3d"][0])
    theirs = original.export_state(state, best_if_none=-math.inf)
    folder = tmp_path / "run"
    words = train_words(folder, views, max_it=9, print_every=1)
    torch.save(theirs, folder / "model.pt")
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "6 iterations done; best psnr so far" in done.stdout
    assert [row["step"] for row in rows(folder) if "train/loss" in row] == [6, 7, 8]
    again = tmp_path / "again"
    shutil.copytree(trained["clevr3d"][0], again)
    done = run(*train_words(again, views, max_it=9, print_every=1))
    assert done.returncode == 0, done.stderr
    assert largest_difference(state_of(folder), state_of(again)) == 0
    assert load(folder / "model_of_original.pt")["it"] == 5
    assert state_of(folder)["step"] == 8


@pytest.mark.slow
def test_srt_and_what_it_is_made_of(run: Runner, views: Path, tmp_path: Path) -> None:
    words = train_words(tmp_path, views, "--print-model", visualize_every=6)
    settings = [word for word in words if "slot" not in str(word)]
    settings[3:3] = ["model.encoder=srt", "model.decoder=srt", "model.decoder_kwargs.latent_dim=16"]
    settings = [word for word in settings if word != "model.decoder_kwargs.latent_dim=24"]
    text = words[1].read_text().replace("    num_slots: 6\n", "")
    words[1].write_text(text)
    done = run(*settings)
    assert done.returncode == 0, done.stderr
    assert "SRT encoder" not in done.stdout
    assert f"{'encoder.per_patch_linear.bias':80} [16] 16" in done.stdout
    assert rows(tmp_path)[0].keys() == {"step", "train/loss", "train/mse", "train/lr", "train/t"}
    assert [row.keys() for row in rows(tmp_path) if "val/psnr" in row] == [{"step", "val/psnr", "val/mse"}] * 2


SERVICES = """import json

def note(**what):
    with open({path!r}, "a") as file:
        file.write(json.dumps(what) + "\\n")

def init(**settings):
    note(**settings)
    import wandb
    return wandb

def log(row, step):
    note(step=step, names=sorted(row))

def finish():
    note(finished=True)

class Image:
    def __init__(self, array):
        self.shape = array.shape

class RTPT:
    def __init__(self, **settings):
        note(**settings)

    def start(self):
        pass

    def step(self):
        note(step_of_title=True)
"""
"""Stands for the packages wandb and rtpt, which talk to others; writes down what it is told."""


@pytest.mark.slow
def test_services_are_told_and_a_run_keeps_its_id(run: Runner, views: Path, tmp_path: Path) -> None:
    site, told = tmp_path / "site", tmp_path / "told.jsonl"
    site.mkdir()
    for name in ("wandb", "rtpt"):
        (site / f"{name}.py").write_text(SERVICES.format(path=str(told)))
    folder = tmp_path / "run"
    for max_it in (3, 6):
        words = train_words(folder, views, "--wandb", "--rtpt", "KS", "--visnow", max_it=max_it, visualize_every=3)
        done = run(*words, PYTHONPATH=site)
        assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    begun = [line for line in lines if "project" in line]
    assert [line["project"] for line in begun] == ["srt", "srt"]
    assert begun[0]["id"] == begun[1]["id"] == state_of(folder)["run_id"]
    assert begun[0]["config"]["training"]["max_it"] == 3
    assert begun[0]["resume"] == "allow"
    assert [line["max_iterations"] for line in lines if line.get("name_initials") == "KS"] == [3, 3]
    assert sum("step_of_title" in line for line in lines) == 6
    logged = {name for line in lines for name in line.get("names", ())}
    assert {"train/loss", "val/psnr", "val/renders", "train/renders"} <= logged


def refused(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str]:
    """Exit code of a command that does not come to train, and what it says of it."""
    try:
        code = main([str(word) for word in words[1:]])
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err


def absent(package: str) -> pytest.MarkDecorator:
    """For what is said where a package is missing."""
    return pytest.mark.skipif(importlib.util.find_spec(package) is not None, reason=f"{package} is installed")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--full-scal",), 2, "no flag '--full_scal'; did you mean '--full_scale'?"),
        (("--accumulate", "0"), 2, "expected a whole number of at least 1, found '0'"),
        (("--bf16", "--fp16"), 2, "not allowed with argument"),
        pytest.param(("--wandb",), 1, "--wandb: the package wandb is not installed", marks=absent("wandb")),
        pytest.param(("--rtpt", "KS"), 1, "--rtpt: the package rtpt is not installed", marks=absent("rtpt")),
        (("--accumulate", "3"), 1, "batch_size 4 cannot be dealt out evenly to 1 processes with --accumulate 3"),
        (("--set", "training.batch_size=32"), 1, "24 samples are fewer than one global batch of 32 x 1"),
        (("--set", "training.batch=2"), 1, "no key 'training.batch'; did you mean 'batch_size'?"),
        (("--set", "data.path=nowhere"), 1, "nowhere/metadata.npz: no such file. Set data.path"),
        (("--set", "model.encoder=ostr"), 1, "did you mean 'osrt'?"),
        (("--set", "model.encoder_kwargs.slots=2"), 1, "no 'slots'"),
        (("--set", "training.model_selection_metric=ssim"), 1, "no score 'ssim' of this model on these data"),
    ],
)
def test_misuse_is_answered(views: Path, tmp_path: Path, capsys, flags: tuple, code: int, message: str) -> None:
    found, said = refused(capsys, *train_words(tmp_path, views), *flags)
    assert (found, "Traceback" in said) == (code, False)
    assert message in said
    assert not list(tmp_path.glob("*.pt"))


def test_another_configuration_does_not_continue_a_run(views: Path, trained, capsys) -> None:
    folder = trained["clevr3d"][0]
    changes = {
        "num_fine_samples": (3, "training.num_fine_samples: None -> 3"),
        "batch_size": (8, "training.batch_size: 4 -> 8"),
    }
    for key, (value, difference) in changes.items():
        code, said = refused(capsys, *train_words(folder, views, **{key: value}))
        assert code == 1
        assert f"{folder}/model.pt: of a run with another configuration:\n  {difference}\nUndo the change" in said
    code, said = refused(capsys, *train_words(folder, views), "--seed", 1)
    assert "--seed: 0 -> 1" in said


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run(run: Runner, views: Path, tmp_path: Path, trained) -> None:
    folder = Path(shutil.copytree(trained["clevr3d"][0], tmp_path / "run"))
    state = state_of(folder)
    state["model"]["decoder.render_mlp.net.8.bias"].fill_(math.nan)
    torch.save(state, folder / "model.pt")
    done = run(*train_words(folder, views, max_it=9))
    assert done.returncode == 1
    assert "step 6: the loss or its gradient is not finite" in done.stderr
    assert load(folder / "model.pt")["step"] == 5, "nothing was saved since"
