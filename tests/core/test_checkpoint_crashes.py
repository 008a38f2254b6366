"""Whatever interrupts a save, the files that are there are complete, and one of them is no older than the last save."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from core.training.checkpoint import CheckpointFolder, load

ROOT = Path(__file__).parents[2]
SYSTEM_CALLS = {"open", "write", "flush", "fsync", "close", "__exit__", "replace", "unlink", "listdir", "scandir"}


def state_of(step: int) -> dict:
    return {"step": step, "w": torch.full((30000,), float(step))}


def complete_steps(folder: CheckpointFolder) -> list[int]:
    """Steps that have a file; every one must be whole."""
    for step in folder.steps():
        state = load(folder.path(step))
        assert state["step"] == step
        assert torch.equal(state["w"], state_of(step)["w"])
    return folder.steps()


def partial_files(folder: CheckpointFolder) -> list[Path]:
    return list(folder.folder.glob(".*.partial"))


def in_child(action: Callable[[], None]) -> int:
    """Process id of a child that does `action` and ends."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def save_and_die(folder: CheckpointFolder, step: int, moment: int) -> None:
    """Save; before or after the system call that comes at `moment`, the kernel ends this process."""
    seen = 0

    def count(frame, event: str, function) -> None:
        nonlocal seen
        if event in ("c_call", "c_return") and function.__name__ in SYSTEM_CALLS:
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.setprofile(count)
    folder.save(step, state_of(step))
    sys.setprofile(None)


def test_sigkill_between_any_two_system_calls(tmp_path):
    newest, left_partial = [], 0
    for moment in range(1000):
        folder = CheckpointFolder(tmp_path / str(moment), "run-state-", keep=1)
        folder.folder.mkdir()
        folder.save(1, state_of(1))
        child = in_child(lambda folder=folder, moment=moment: save_and_die(folder, 2, moment))
        status = os.waitpid(child, 0)[1]
        left_partial += len(partial_files(folder))
        newest.append(complete_steps(folder)[-1])
        folder.remove_partial_files()
        assert not partial_files(folder)
        if status == 0:
            assert folder.steps() == [2]
            break
        assert status == signal.SIGKILL
    # Killed at ever later moments: first the old one was the newest, from the renaming on the other.
    assert newest == sorted(newest)
    assert newest.count(1) >= 8
    assert newest.count(2) >= 4
    assert left_partial >= 6


def save_for_ever(folder: CheckpointFolder) -> None:
    newest = folder.newest()
    step = newest[1]["step"] + 1 if newest else 0
    while True:
        folder.save(step, state_of(step))
        step += 1


def test_sigkill_at_random_moments(tmp_path):
    """Twenty times in a row, each child going on where the one before was killed: steps never go back."""
    folder = CheckpointFolder(tmp_path, "run-state-", keep=2)
    moments = random.Random(0)
    reached = -1
    for _ in range(20):
        child = in_child(lambda: save_for_ever(folder))
        time.sleep(moments.uniform(0.01, 0.06))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        if steps := complete_steps(folder):
            assert steps[-1] >= reached
            reached = steps[-1]
    assert reached > 5
    folder.remove_partial_files()
    folder.save(reached + 1, state_of(reached + 1))
    assert len(complete_steps(folder)) == len(list(tmp_path.iterdir())) == 2


WRITE_UNDER_LIMIT = """
import resource, signal, sys
from pathlib import Path
import torch
from core.training.checkpoint import CheckpointError, CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]), "run-state-", keep=1)
folder.save(1, {"step": 1, "w": torch.ones(1000)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for step, limit in enumerate((0, 1, 4096, 60000), start=2):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        folder.save(step, {"step": step, "w": torch.ones(100000)})
        print("saved")
    except CheckpointError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(sorted(path.name for path in folder.folder.iterdir()), folder.newest()[1]["step"])
"""


def test_a_full_disk_leaves_the_older_ones(tmp_path):
    command = [sys.executable, "-c", WRITE_UNDER_LIMIT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    for step, line in zip(range(2, 6), lines):
        assert f"run-state-{step}.pth: cannot be written (File too large). Older checkpoints in {tmp_path} are" in line
        assert "Make room and start the same command" in line
    assert lines[4] == "['run-state-1.pth'] 1"
