"""ClevrTex runs that are killed, stopped or misused: nothing is lost, and the message says what to do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.training.checkpoint import load
from tests.clevrtex_runs import assert_same_weights, folder_of, losses, train_words
from tests.conftest import ROOT, Runner

STEPS = 24
FLAGS = ("--batch_size", 2, "--log_every", 1, "--checkpoint_every", 1, "--nowatermark", "--max_steps", STEPS)


def start(words: list[object]) -> subprocess.Popen:
    command = [sys.executable, *(str(word) for word in words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(process: subprocess.Popen, out: Path, step: int) -> None:
    """Until a checkpoint of that step or a later one is there."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        found = list(out.glob("*/slota/*/checkpoints/last.ckpt"))
        if found and load(found[0])["step"] >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step}: {process.communicate()[0] if process.poll() is not None else 'too slow'}")


@pytest.fixture(scope="module")
def uninterrupted(run: Runner, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    done = run(*train_words("slota", scenes, out, *FLAGS))
    assert done.returncode == 0, done.stderr
    return folder_of("slota", out)


def test_killed_the_same_command_continues_bit_for_bit(scenes: Path, tmp_path: Path, uninterrupted: Path) -> None:
    words = train_words("slota", scenes, tmp_path, *FLAGS)
    for step in (2, 9):
        process = start(words)
        wait_for_step(process, tmp_path, step)
        process.kill()
        process.communicate()
    process = start(words)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "Starting from step" in output
    assert losses(folder_of("slota", tmp_path)) == losses(uninterrupted)
    assert_same_weights(folder_of("slota", tmp_path), uninterrupted)


def test_stopped_it_saves_and_says_so(run: Runner, scenes: Path, tmp_path: Path, uninterrupted: Path) -> None:
    words = train_words("slota", scenes, tmp_path, *FLAGS[:4], "--max_steps", STEPS)
    process = start([*words, "--checkpoint_every", 1])
    wait_for_step(process, tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 75, output
    folder = folder_of("slota", tmp_path)
    assert (folder / "INTERRUPT").exists()
    assert not (folder / "SUCCESS").exists()
    assert run(*words).returncode == 0
    assert (folder / "SUCCESS").exists()
    assert not (folder / "INTERRUPT").exists()
    assert_same_weights(folder, uninterrupted)


@pytest.mark.slow
def test_a_finished_run_and_one_at_work_are_left_alone(run: Runner, scenes: Path, tmp_path: Path) -> None:
    words = train_words("slota", scenes, tmp_path, *FLAGS[:-1], 60)
    process = start(words)
    wait_for_step(process, tmp_path, 1)
    other = run(*words[:-1], 2)
    assert other.returncode == 0, other.stderr
    beside = run(*words[:-1], 60, "--resume", False, "--limit", 1)
    process.kill()
    process.communicate()
    assert beside.returncode == 0
    assert {path.name for path in tmp_path.glob("*/slota/*")} == {"test", "test_0", "test_1"}


def test_damaged_last_checkpoint_falls_back_to_the_best(run: Runner, scenes: Path, tmp_path: Path) -> None:
    words = train_words("slota", scenes, tmp_path, *FLAGS[:-1])
    assert run(*words, 6).returncode == 0
    last = folder_of("slota", tmp_path) / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    last.unlink()  # best.ckpt may be the same file
    last.write_bytes(content[: len(content) // 2])
    done = run(*words, 8, "--resume", True, PYTHONWARNINGS="default")
    assert done.returncode == 0, done.stderr
    assert "Continuing from" in done.stderr
    assert load(last)["step"] == 7


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--slot", 3), r"no flag '--slot'; did you mean --slots?"),
        (("--batchsize", 3), r"no flag '--batchsize'; did you mean --batch_size?"),
        (("--slots", "many"), r"--slots 'many': expected int, found str"),
        (("stray",), r"'stray' belongs to no flag"),
        (("--optim", "rmspro"), r"did you mean 'rmsprop'?"),
        (("--lr", "decay(5)"), r"--lr 'decay(5)': expected decay(WARMUP,HALF_LIFE[,RATE])"),
        (("--seed", "-3"), r"--seed -3: expected a number from 0"),
        (("--resume", "nowhere.ckpt"), r"--resume nowhere.ckpt: no such checkpoint"),
        (("--weights", "nowhere.ckpt"), r"nowhere.ckpt: no such checkpoint"),
        (("--dp",), r"use --ddp"),
        (("--nodes", 2), r"torchrun --nnodes 2"),
        (("--batch_size", 999), r"16 samples are fewer than one global batch of 999"),
        (("--precision", "fp8"), r"precision 'fp8' is not one of"),
    ],
)
def test_misuse(run: Runner, scenes: Path, tmp_path: Path, flags: tuple, message: str) -> None:
    words = [word for word in train_words("slota", scenes, tmp_path) if word not in ("--slots", 4)]
    given = {word for word in flags if str(word).startswith("--")}
    if "--lr" in given:
        words = [word for word in words if word not in ("--lr", "warm(5)")]
    if "--batch_size" not in given:
        words += ["--batch_size", 4]
    done = run(*words, *flags)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*/*/*")), "no folder is left behind"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("clevrtexx:full", "did you mean 'clevrtex'?"),
        ("clevrtex:ful", "did you mean 'full'?"),
        ("clevrtex:full-cropp", "did you mean 'crop'?"),
        ("clevrtex:pbg-crop-(32,32)", "python tools/make_data.py clevrtex"),
    ],
)
def test_data_that_are_not_there(run: Runner, scenes: Path, tmp_path: Path, data: str, message: str) -> None:
    words = train_words("slota", scenes, tmp_path)
    words[3] = data
    done = run(*words)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_of_another_model(run: Runner, scenes: Path, tmp_path: Path, uninterrupted: Path) -> None:
    best = uninterrupted / "checkpoints" / "best.ckpt"
    done = run(*train_words("monet", scenes, tmp_path, "--weights", best))
    assert done.returncode == 1
    assert "the weights are not those of this MONet" in done.stderr


def test_full_disk(scenes: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it: the run ends with a message, earlier checkpoints stay."""
    words = train_words("slota", scenes, tmp_path, *FLAGS[:-1], 6)
    script = "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); sys.argv = sys.argv[1:]; "
    script += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", script, *(str(word) for word in words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), timeout=120)
    assert done.returncode == 1, done.stderr
    assert "last.ckpt: cannot be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
