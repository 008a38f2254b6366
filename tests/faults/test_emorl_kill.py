"""Runs that are killed or told to stop, at any moment, continue as if nothing had happened: bit for bit."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Runner
from tests.tiny_runs import ROOT, assert_same_weights, scalar_lines, scalars, state_of, train_words

SETTINGS = (
    "Net.K=2",
    "Net.geco_warm_start=5",
    "training.refinement_curriculum=[(-1,2),(9,1)]",
    "training.use_scheduler=False",
    "training.keep_checkpoints=3",
)
# Thirty megabytes after every step: most of the time goes into writing.
WRITE_HEAVY = (*SETTINGS, "Net.z_size=256", "training.checkpoint_freq=1")


def start(words: list[str], log: Path, **environment: object) -> subprocess.Popen:
    """The command in the background, in a process group of its own, its output added to `log`."""
    command = [sys.executable, *words] if words[0].endswith(".py") else words
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=os.environ | {"PYTHON": sys.executable} | {key: str(value) for key, value in environment.items()},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("weights/*.pth"))


def half_written(out: Path) -> list[str]:
    return [path.name for path in out.glob("weights/.*.pth.*.partial")]


def wait_until(happened, process: subprocess.Popen, seconds: float = 120) -> bool:
    """Whether it happened before the process ended."""
    end = time.monotonic() + seconds
    while process.poll() is None:
        if happened():
            return True
        assert time.monotonic() < end, "the run makes no progress"
        time.sleep(0.001)
    return False


def kill_at(moment: str, process: subprocess.Popen, out: Path, rng: random.Random) -> bool:
    """kill -9 while the run starts, trains or writes a checkpoint; False if it had finished already."""
    if moment == "starting":
        time.sleep(rng.uniform(0.0, 1.5))
    else:
        before = checkpoints(out)
        if not wait_until(lambda: checkpoints(out) != before, process):
            return False
        if moment == "writing":
            wait_until(lambda: half_written(out), process)
            time.sleep(rng.uniform(0.0, 0.01))
        else:
            time.sleep(rng.uniform(0.0, 0.15))
    too_late = process.poll() is not None
    process.kill()
    process.wait()
    return not too_late


def kill_again_and_again(
    words: list[str], out: Path, log: Path, moments: list[str], seed: int, **environment: object
) -> int:
    """Start the same command once per moment and kill it there, then let it finish; how many writes were torn."""
    rng, torn = random.Random(seed), 0
    for moment in moments:
        assert kill_at(moment, start(words, log, **environment), out, rng), log.read_text()[-3000:]
        torn += bool(half_written(out))
    last = start(words, log, **environment)
    assert last.wait(timeout=300) == 0, log.read_text()[-3000:]
    assert not half_written(out)
    return torn


def assert_as_if_uninterrupted(out: Path, reference: Path, last: int) -> None:
    assert_same_weights(state_of(out, last), state_of(reference, last))
    assert scalar_lines(out) == scalar_lines(reference)
    assert checkpoints(out) == checkpoints(reference)


def finish(run: Runner, words: list[str], **environment: object) -> None:
    done = run(*words, **environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def uninterrupted(run: Runner, tetrominoes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """31 steps in one go."""
    out = tmp_path_factory.mktemp("uninterrupted")
    finish(run, train_words(tetrominoes, out, *SETTINGS, "training.iters=30"))
    assert len(scalars(out)) == 31
    return out


def test_four_kills(tetrominoes: Path, tmp_path: Path, uninterrupted: Path) -> None:
    """With data workers, although the uninterrupted run has none."""
    settings = (*SETTINGS, "training.iters=30", "training.num_workers=2")
    words = train_words(tetrominoes, tmp_path / "out", *settings)
    moments = ["running", "writing", "starting", "running"]
    kill_again_and_again(words, tmp_path / "out", tmp_path / "log", moments, seed=2)
    assert_as_if_uninterrupted(tmp_path / "out", uninterrupted, 30)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_twenty_kills(run: Runner, tetrominoes: Path, tmp_path: Path, workers: int) -> None:
    settings = (*SETTINGS, "training.iters=100")
    finish(run, train_words(tetrominoes, tmp_path / "whole", *settings))
    words = train_words(tetrominoes, tmp_path / "out", *settings, f"training.num_workers={workers}")
    moments = random.Random(workers).choices(["starting", "running", "writing"], weights=[1, 3, 2], k=20)
    kill_again_and_again(words, tmp_path / "out", tmp_path / "log", moments, seed=workers)
    assert_as_if_uninterrupted(tmp_path / "out", tmp_path / "whole", 100)


@pytest.mark.parametrize(
    ("kills", "last"), [pytest.param(3, 8, id="3"), pytest.param(10, 30, id="10", marks=pytest.mark.slow)]
)
def test_kills_while_a_checkpoint_is_written(
    run: Runner, tetrominoes: Path, tmp_path: Path, kills: int, last: int
) -> None:
    settings = (*WRITE_HEAVY, f"training.iters={last}")
    finish(run, train_words(tetrominoes, tmp_path / "whole", *settings))
    words = train_words(tetrominoes, tmp_path / "out", *settings)
    torn = kill_again_and_again(words, tmp_path / "out", tmp_path / "log", ["writing"] * kills, seed=3)
    assert torn >= kills // 2  # the kills did hit the writes
    assert_as_if_uninterrupted(tmp_path / "out", tmp_path / "whole", last)


@pytest.mark.slow
def test_killed_launcher_takes_its_processes_along(run: Runner, tetrominoes: Path, tmp_path: Path) -> None:
    """Else the processes of the first life would write into the second one's folder."""
    settings = (*SETTINGS, "training.batch_size=1", "training.iters=30")
    words = train_words(tetrominoes, tmp_path / "whole", *settings)
    finish(run, [words[0], "--processes", "2", *words[1:]])
    words = train_words(tetrominoes, tmp_path / "out", *settings)
    words[1:1] = ["--processes", "2"]
    kill_again_and_again(words, tmp_path / "out", tmp_path / "log", ["running", "starting", "running"], seed=5)
    assert_as_if_uninterrupted(tmp_path / "out", tmp_path / "whole", 30)


@pytest.mark.parametrize(
    ("name", "whom", "workers"), [("SIGUSR1", "process", 0), ("SIGUSR1", "group", 2), ("SIGTERM", "group", 2)]
)
def test_stop_signals_save_and_exit_with_75(
    run: Runner, tetrominoes: Path, tmp_path: Path, uninterrupted: Path, name: str, whom: str, workers: int
) -> None:
    """Slurm signals one process or all of a job, among them the data workers."""
    out, log = tmp_path / "out", tmp_path / "log"
    words = train_words(tetrominoes, out, *SETTINGS, "training.iters=30", f"training.num_workers={workers}")
    words += ["training.checkpoint_freq=1000", "training.tqdm=True"]  # the only checkpoint is the signal's
    environment = {}
    if whom == "process":  # that of the script
        words = ["emorl/scripts/train.sh", *words[3:]]
        environment = {"ENV": "tetrominoes", "OUT_DIR": out, "NUM_GPUS": 1, "SEED": 1}
    process = start(words, log, **environment)
    assert wait_until(lambda: "| 4/31" in log.read_text(), process)
    (os.kill if whom == "process" else os.killpg)(process.pid, getattr(signal, name))
    assert process.wait(timeout=60) == 75, log.read_text()[-3000:]
    said = re.search(rf"{name}: saving after step (\d+) and stopping; the same command continues", log.read_text())
    assert said
    step = int(said[1])
    assert checkpoints(out) == [f"tiny-state-{step}.pth"]
    assert step < 30
    assert "Traceback" not in log.read_text()
    finish(run, words, **environment)
    assert_same_weights(state_of(out, 30), state_of(uninterrupted, 30))
    assert scalar_lines(out) == scalar_lines(uninterrupted)


def test_stop_signals_reach_every_process(run: Runner, tetrominoes: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    words = ["emorl/scripts/train.sh", *train_words(tetrominoes, out, *SETTINGS, "training.iters=18")[3:]]
    environment = {"ENV": "tetrominoes", "OUT_DIR": out, "NUM_GPUS": 2, "SEED": 1}
    process = start(words, log, **environment)
    assert wait_until(lambda: checkpoints(out), process)
    os.kill(process.pid, signal.SIGUSR1)
    assert process.wait(timeout=60) == 75, log.read_text()[-3000:]
    assert "Traceback" not in log.read_text()
    step = int(re.search(r"saving after step (\d+)", log.read_text())[1])
    assert state_of(out, step)["step"] == step
    done = run(*words, **environment)
    assert done.returncode == 0, done.stderr
    assert f"after step {step}" in done.stdout
    assert [row["step"] for row in scalars(out)] == list(range(19))
