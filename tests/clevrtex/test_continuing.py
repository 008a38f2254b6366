"""What a run may go on from, and what it leaves as it was: trainings of few steps in this process."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clevrtex.experiments.iodine import Iodine
from clevrtex.experiments.slota import SlotAttention
from clevrtex.framework import folders
from clevrtex.framework.continuing import CONDITIONS, conditions
from clevrtex.framework.options import Hyperparameters, RunOptions
from clevrtex.framework.program import train
from core.training.checkpoint import load, save
from tests.clevrtex_runs import rows
from tests.clevrtex_scenes import write_scenes

RECORDS = ("hparams.yaml", "run.json", "scalars.jsonl")
SMALL = {"slots": 2, "width": 8, "decoder_grid": 1, "lr": "", "batch_size": 4}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 scenes to train on, four batches, and two to validate."""
    return write_scenes(tmp_path_factory.mktemp("boxes"), count=20)


@pytest.fixture
def command(scenes: Path, tmp_path: Path):
    """`command(max_steps=2, ...)`: the exit code of a training of Slot Attention, or of another experiment."""

    def run(experiment: type[Hyperparameters] = SlotAttention, **flags) -> int:
        small = SMALL if issubclass(experiment, SlotAttention) else {"batch_size": 4}
        data = {"data": "clevrtex:full-crop-(16,16)", "data_root": str(scenes), "dir": str(tmp_path)}
        how = {"workers": "no", "quiet": True, "nowatermark": True, "log_every": 1}
        return train(experiment, {**data, **small, **how, **flags})

    return run


def only_folder(out: Path) -> Path:
    (found,) = out.glob("*/slota/*")
    return found


def last_step(folder: Path) -> int:
    return load(folder / "checkpoints/last.ckpt")["step"]


@pytest.mark.parametrize(
    ("experiment", "flags", "message"),
    [
        (SlotAttention, {"width": 16}, "the weights are not those of this SlotAttention"),
        (SlotAttention, {"optim": "rmsprop"}, "holds the state of --optim adam, which no other optimiser can go on"),
        (Iodine, {}, "that is a run of SlotAttention, not of IODINE"),
    ],
    ids=["width", "optimiser", "model"],
)
def test_a_run_that_does_not_fit_is_left_as_it_was(command, tmp_path: Path, capsys, experiment, flags, message: str):
    assert command(max_steps=2) == 0
    folder = only_folder(tmp_path)
    with (folder / "scalars.jsonl").open("a") as file:
        file.write('{"step": 9}\n')
    before = {name: (folder / name).read_bytes() for name in RECORDS}
    assert command(experiment, resume=str(folder), max_steps=3, **flags) == 1
    assert message in capsys.readouterr().err
    assert {name: (folder / name).read_bytes() for name in RECORDS} == before
    assert command(resume=str(folder), max_steps=3) == 0
    assert last_step(folder) == 2


def test_other_options_do_not_go_on_by_themselves(command, tmp_path: Path, capsys):
    assert command(max_steps=2, limit=2) == 0
    folder = only_folder(tmp_path)
    success = folder / folders.SUCCESS
    success.unlink()
    assert command(max_steps=2, acc=2) == 1
    found = capsys.readouterr().err
    assert "batch_size x acc x processes: 4 -> 8\n  limit: 2 -> None\nGive the same options, --resume True to" in found
    assert not success.exists()
    assert command(max_steps=2, limit=2) == 0
    assert success.exists()
    assert command(max_steps=3, resume=True) == 0
    assert "max_steps: 2 -> 3\n  limit: 2 -> None\n" in capsys.readouterr().out
    assert only_folder(tmp_path) == folder


def test_a_state_without_options_goes_on(command, tmp_path: Path):
    assert command(max_steps=2, limit=2) == 0
    folder = only_folder(tmp_path)
    (folder / folders.SUCCESS).unlink()
    state = load(folder / "checkpoints/last.ckpt")
    del state[CONDITIONS]
    save(folder / "checkpoints/last.ckpt", state)
    assert command(max_steps=2) == 0
    assert (only_folder(tmp_path) / folders.SUCCESS).exists()


def test_processes_share_a_batch():
    hparams = SlotAttention(batch_size=4)
    one, two = (conditions(hparams, RunOptions(), count) for count in (1, 2))
    assert two == conditions(hparams, RunOptions(acc=2), 1)
    assert two != one


def test_more_steps_after_epochs(command, tmp_path: Path):
    assert command(epochs=1) == 0
    assert last_step(only_folder(tmp_path)) == 3
    assert command(max_steps=6, resume=True) == 0
    assert last_step(only_folder(tmp_path)) == 5


def test_a_job_started_again_has_one_curve(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    folder = folders.fresh_folder(tmp_path, "clt_fullct/slota/test", shared=False)
    (folder / "scalars.jsonl").write_text('{"step": 0, "loss": 5.0}\n')
    assert command(max_steps=2) == 0
    assert only_folder(tmp_path) == folder
    assert [row["step"] for row in rows(folder) if "loss" in row] == [0, 1]


@dataclass(kw_only=True)
class Interrupted(SlotAttention):
    """Stopped by its user in the second step."""

    def rate_schedule(self, steps_per_epoch: int):
        def factor(step: int) -> float:
            if step == 1:
                raise KeyboardInterrupt
            return 1.0

        return factor


def test_interrupted_it_has_not_saved_and_does_not_say_so(command, tmp_path: Path, capsys):
    assert command(Interrupted, max_steps=3) == 130
    assert "interrupted" in capsys.readouterr().err
    assert (only_folder(tmp_path) / folders.INTERRUPT).exists()
    assert not (only_folder(tmp_path) / folders.CHECKPOINTS).exists()


def test_pictures_of_data_without_masks(command, tmp_path: Path):
    rng = np.random.default_rng(0)
    (tmp_path / "own").mkdir()
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"own/{number:02}.png")
    out = tmp_path / "out"
    assert command(data=f"folder:{tmp_path}/own/-(16,16)", data_root=None, dir=str(out), max_steps=2) == 0
    events = EventAccumulator(str(only_folder(out)), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["recon"]
