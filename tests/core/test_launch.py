"""`python -m core.training.launch`: processes of one node or several, their signals and their exit code."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.training.checkpoint import CheckpointFolder
from core.training.launch import main
from core.training.signals import STOPPED_EXIT_CODE
from tests.core.test_signals import ENDLESS, ROOT, end, start

LAUNCH = ["-m", "core.training.launch", "--processes", 2]
TOY = Path(__file__).with_name("toy_training.py")
GATHER = """
import os, pathlib, sys, torch
torch.distributed.init_process_group("gloo")
rank = torch.tensor(2.0 ** torch.distributed.get_rank())
torch.distributed.all_reduce(rank)
report = [os.environ["LOCAL_RANK"], int(rank.item()), *sys.argv[2:]]
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(repr(report))
torch.distributed.destroy_process_group()
"""


def test_nodes_form_one_group(tmp_path, monkeypatch):
    script = tmp_path / "gather.py"
    script.write_text(GATHER)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29817")
    reports = tmp_path / "reports"
    reports.mkdir()
    command = [sys.executable, *map(str, LAUNCH), "--nodes", "2", str(script), str(reports), "--node", "a b"]
    nodes = [subprocess.Popen(command, env=os.environ | {"SLURM_PROCID": str(node)}) for node in range(2)]
    assert [node.wait(60) for node in nodes] == [0, 0]
    assert {path.name: path.read_text() for path in reports.iterdir()} == {
        str(rank): repr([str(rank % 2), 15, "--node", "a b"]) for rank in range(4)
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_processes_that_a_scheduler_and_the_launcher_signal_both_save(tmp_path, number):
    job = start(*LAUNCH, TOY, tmp_path, *ENDLESS, "--batch-size", 4)
    os.killpg(job.pid, number)
    code, errors = end(job)
    assert code == STOPPED_EXIT_CODE, errors
    [step] = CheckpointFolder(tmp_path, "toy-state-").steps()
    assert f"{number.name}: saving after step {step} and stopping" in errors


@pytest.mark.parametrize(
    ("ending", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGUSR1)", 128 + signal.SIGUSR1)]
)
def test_exit_codes_are_those_of_a_shell(tmp_path, ending, code):
    script = tmp_path / "script.py"
    script.write_text(f"import os, signal, sys, time\nif os.environ['RANK'] == '1': {ending}\ntime.sleep(60)")
    assert main(["--processes", "2", str(script)]) == code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "2"], "expected a Python file and its arguments at the end"),
        (["--processes", "0", "x.py"], "found 0 processes, node 0 of 1"),
        (["--processes", "1", "--nodes", "2", "--node", "2", "x.py"], "found 1 processes, node 2 of 2"),
        (["--processes", "1", "--nodes", "2", "x.py"], "several nodes need MASTER_ADDR and MASTER_PORT"),
        (["x.py"], "the following arguments are required: --processes"),
    ],
)
def test_wrong_usage_is_explained(capsys, monkeypatch, words, message):
    for name in ("MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_the_options():
    command = [sys.executable, "-m", "core.training.launch", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--processes", "--nodes", "--node"))
