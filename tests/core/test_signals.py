"""A training that is told to stop saves first, alone, with workers and in several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.training.checkpoint import CheckpointFolder
from core.training.launch import launch_processes
from core.training.signals import STOPPED_EXIT_CODE, StopSignals
from core.training.trainer import STEPS_BETWEEN_AGREEMENTS

ROOT = Path(__file__).parents[2]
TRAIN = ["-m", "tests.core.toy_training"]
ENDLESS = ["--last-step", 10**6, "--checkpoint-every", 10**6, "--pause", 0.002]


def start(*words: object, until: int = 5) -> subprocess.Popen:
    """A process in a group of its own, once it has trained until that step."""
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line == f"step {until}\n":
            return process
    raise AssertionError(process.stderr.read())


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and stderr; nothing of the group is left running."""
    try:
        _, errors = process.communicate(timeout=30)
        return process.returncode, errors
    finally:
        for number in (signal.SIGKILL,) if process.poll() is None else ():
            os.killpg(process.pid, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path, number):
    process = start(*TRAIN, tmp_path, *ENDLESS)
    process.send_signal(number)
    code, errors = end(process)
    assert code == STOPPED_EXIT_CODE == 75, errors
    [step] = CheckpointFolder(tmp_path, "toy-state-").steps()
    assert 5 <= step < 10**6
    assert CheckpointFolder(tmp_path, "toy-state-").newest()[1]["step"] == step
    assert f"{number.name}: saving after step {step} and stopping; the same command continues" in errors
    rows = [json.loads(line) for line in (tmp_path / "tb" / "scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(step + 1))
    assert json.loads((tmp_path / "process-0.json").read_text())["hooked"][-1] == step


def test_a_signal_to_all_processes_of_a_job_saves_although_workers_get_it_too(tmp_path):
    process = start(*TRAIN, tmp_path, *ENDLESS, "--num-workers", 2)
    os.killpg(process.pid, signal.SIGTERM)
    code, errors = end(process)
    assert code == STOPPED_EXIT_CODE, errors
    assert len(CheckpointFolder(tmp_path, "toy-state-").steps()) == 1


def test_a_second_signal_kills(tmp_path):
    process = start(*TRAIN, tmp_path, "--pause", 3, until=0)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == -signal.SIGTERM
    assert not list(tmp_path.glob("*.pth"))


LAUNCH = "import sys; from core.training.launch import launch_processes; sys.exit(launch_processes(2, sys.argv[1:]))"


def test_two_processes_stop_after_the_same_step_when_one_is_told_to(tmp_path):
    process = start("-c", LAUNCH, *TRAIN, tmp_path, *ENDLESS, "--batch-size", 4)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGUSR1)
    code, errors = end(process)
    assert code == STOPPED_EXIT_CODE, errors
    [step] = CheckpointFolder(tmp_path, "toy-state-").steps()
    first, second = (json.loads((tmp_path / f"process-{rank}.json").read_text()) for rank in range(2))
    assert len(first["averages"]) == len(second["averages"]) == step + 1
    assert first["weights"] == second["weights"]


@pytest.mark.slow
def test_two_processes_with_slow_steps_stop_sooner_than_after_sixteen(tmp_path):
    slow = ["--last-step", 10**6, "--checkpoint-every", 10**6, "--pause", 2.0]
    process = start("-c", LAUNCH, *TRAIN, tmp_path, *slow, "--batch-size", 4)
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, errors = end(process)
    assert code == STOPPED_EXIT_CODE, errors
    assert time.monotonic() - told < STEPS_BETWEEN_AGREEMENTS * 2.0 / 2
    assert len(CheckpointFolder(tmp_path, "toy-state-").steps()) == 1


REPORT = """
import os, pathlib, sys
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(" ".join(os.environ[name] for name in names))
"""


def test_launched_processes_know_their_place(tmp_path):
    assert launch_processes(3, ["-c", REPORT, str(tmp_path)]) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        str(rank): f"{rank} {rank} 3 3 127.0.0.1" for rank in range(3)
    }


def test_when_one_process_fails_the_others_are_killed():
    fail = "import os, sys, time; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(60)"
    began = time.monotonic()
    assert launch_processes(2, ["-c", fail]) == 3
    assert time.monotonic() - began < 20


STOP_ALL = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path(sys.argv[1], os.environ["RANK"]).touch()
while len(list(pathlib.Path(sys.argv[1]).iterdir())) < 2:
    time.sleep(0.01)
if os.environ["RANK"] == "0":
    os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""


def test_a_signal_to_the_launcher_reaches_all_processes(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    assert launch_processes(2, ["-c", STOP_ALL, str(tmp_path)]) == STOPPED_EXIT_CODE
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_first_signal_is_remembered_and_the_second_does_what_it_did_before_python():
    before = {number: signal.getsignal(number) for number in StopSignals.SIGNALS}
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received is signal.SIGUSR1
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert {number: signal.getsignal(number) for number in StopSignals.SIGNALS} == before


def test_handlers_come_back_after_an_error():
    before = {number: signal.getsignal(number) for number in StopSignals.SIGNALS}
    with pytest.raises(RuntimeError, match="in between"), StopSignals():
        raise RuntimeError("in between")
    assert {number: signal.getsignal(number) for number in StopSignals.SIGNALS} == before
