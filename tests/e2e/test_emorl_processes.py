"""Several processes with a share of the batch each train the run that one process trains."""

import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import Runner
from tests.launchers import ACCELERATE, TORCHRUN
from tests.tiny_runs import ROOT, assert_same_weights, scalars, state_of, tensors, train_words

# GECO begins, the curriculum changes and the rate is constant, so that two steps of each kind are seen.
CONTROLLERS = (
    "Net.geco_warm_start=2",
    "training.geco_beta_stepsize=1e-3",
    "training.refinement_curriculum=[(-1,3),(4,1)]",
    "training.use_scheduler=False",
)
LAUNCHERS = {
    "--processes": (),
    "torchrun": TORCHRUN,
    "accelerate": ACCELERATE,
}


def words_for(processes: int, data: Path, out: Path, *overrides: str) -> list[str]:
    return train_words(data, out, *CONTROLLERS, f"training.batch_size={4 // processes}", *overrides)


def assert_same_curve(found: Path, wanted: Path) -> None:
    rows, reference = scalars(found), scalars(wanted)
    assert [row["step"] for row in rows] == [row["step"] for row in reference]
    for row, other in zip(rows, reference):
        assert row == pytest.approx(other, rel=1e-5), f"step {row['step']}"


def assert_close_training(found: Path, wanted: Path) -> None:
    """The same curves and GECO, and weights that differ by less than a hundredth of what the training changed.

    Adam turns a gradient of rounding errors into a full step of either sign; few weights have one.
    """
    assert_same_curve(found, wanted)
    first, last = (tensors(state_of(wanted, step)["model"]) for step in (2, 5))
    other = tensors(state_of(found, 5)["model"])
    moved = torch.cat([(last[key] - first[key]).flatten() for key in last])
    apart = torch.cat([(last[key] - other[key]).flatten() for key in last])
    assert apart.norm() < 1e-2 * moved.norm()


@pytest.fixture(scope="module")
def alone(run: Runner, tetrominoes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one process."""
    out = tmp_path_factory.mktemp("alone")
    done = run(*words_for(1, tetrominoes, out))
    assert done.returncode == 0, done.stderr
    assert "rank 0 of 1 on cpu" in done.stdout
    rows = scalars(out)
    assert len({row["train/geco_beta"] for row in rows}) > 2  # GECO moves
    assert "train/norm_delta_lamda_2" in rows[3]
    assert "train/norm_delta_lamda_1" not in rows[4]
    return out


def test_train_script_with_two_processes(run: Runner, tetrominoes: Path, tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "out"
    words = words_for(2, tetrominoes, out)[3:]  # without program and configuration, which the script gives
    environment = {"ENV": "tetrominoes", "NUM_GPUS": 2, "SEED": 1, "OUT_DIR": out}
    done = run("emorl/scripts/train.sh", *words, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rank 0 of 2 on cpu") == 1
    assert done.stdout.count("finished; the weights are in") == 1
    assert_close_training(out, alone)
    assert [path.name for path in (out / "runs").iterdir() if path.name.isdecimal()] == ["1"]
    assert len(list(out.glob("tb/*"))) == 1


@pytest.mark.parametrize("launcher", ["--processes", "accelerate", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_every_launcher(run: Runner, tetrominoes: Path, tmp_path: Path, alone: Path, launcher: str) -> None:
    words = words_for(2, tetrominoes, tmp_path)
    if not LAUNCHERS[launcher]:
        words[1:1] = ["--processes", "2"]
    done = run(*LAUNCHERS[launcher], *words)
    assert done.returncode == 0, done.stderr
    assert "rank 0 of 2 on cpu" in done.stdout
    assert_close_training(tmp_path, alone)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="accelerate starts several processes on several GPUs")
@pytest.mark.parametrize("where", [["--cpu"], []], ids=["cpu", "default"])
def test_accelerate_that_would_start_one_process_is_refused(
    run: Runner, tetrominoes: Path, tmp_path: Path, where: list[str]
) -> None:
    """Without several GPUs it starts one process whatever it is asked for: half the batch would be lost."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *where, "--num_processes=2"]
    done = run(*command, *words_for(2, tetrominoes, tmp_path))
    assert done.returncode == 1
    assert "`accelerate launch` has started one process" in done.stderr
    assert "--processes N" in done.stderr


def test_a_run_of_one_process_continues_on_two(run: Runner, tetrominoes: Path, tmp_path: Path, alone: Path) -> None:
    done = run(*words_for(1, tetrominoes, tmp_path, "training.iters=3"))
    assert done.returncode == 0, done.stderr
    done = run("emorl/train.py", "--processes", 2, *words_for(2, tetrominoes, tmp_path)[1:])
    assert done.returncode == 0, done.stderr
    assert "after step 3" in done.stdout
    assert_close_training(tmp_path, alone)


def test_another_global_batch_is_another_run(run: Runner, tetrominoes: Path, alone: Path) -> None:
    done = run("emorl/train.py", "--processes", 2, *words_for(1, tetrominoes, alone)[1:])
    assert done.returncode == 1
    assert "global_batch_size: 4 -> 8" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_steps_without_refinement_leave_parameters_out(run: Runner, tetrominoes: Path, tmp_path: Path) -> None:
    """DDP must be told that the refinement network gets no gradient at I = 0."""
    overrides = ["training.refinement_curriculum=[(-1,1),(1,0)]", "training.iters=2", "training.checkpoint_freq=1"]
    for processes in (1, 2):
        words = words_for(processes, tetrominoes, tmp_path / str(processes), *overrides)
        done = run(words[0], "--processes", processes, *words[1:])
        assert done.returncode == 0, done.stderr
    assert_same_curve(tmp_path / "2", tmp_path / "1")


@pytest.mark.slow
def test_slot_attention_and_data_workers(run: Runner, tetrominoes: Path, tmp_path: Path) -> None:
    for processes, workers in ((1, 0), (2, 1)):
        words = train_words(
            tetrominoes,
            tmp_path / str(processes),
            f"training.batch_size={4 // processes}",
            f"training.num_workers={workers}",
            "training.resident=False",
            model="SlotAttention",
        )
        done = run(words[0], "--processes", processes, *words[1:])
        assert done.returncode == 0, done.stderr
    assert_same_curve(tmp_path / "2", tmp_path / "1")


@pytest.mark.slow
def test_two_processes_repeat_themselves_exactly(run: Runner, tetrominoes: Path, tmp_path: Path) -> None:
    """Stopped after three steps or not, two processes give the same bits."""
    for name, parts in (("whole", [5]), ("parts", [3, 5])):
        for last in parts:
            words = words_for(2, tetrominoes, tmp_path / name, f"training.iters={last}")
            done = run(words[0], "--processes", 2, *words[1:])
            assert done.returncode == 0, done.stderr
    assert_same_weights(state_of(tmp_path / "parts", 5), state_of(tmp_path / "whole", 5))
    assert scalars(tmp_path / "parts") == scalars(tmp_path / "whole")


def test_number_of_processes_is_checked(run: Runner) -> None:
    done = run("emorl/train.py", "--processes", "two", "with", ROOT / "emorl/configs/train/tetrominoes/EMORL.json")
    assert done.returncode == 1
    assert "--processes needs a number" in done.stderr
