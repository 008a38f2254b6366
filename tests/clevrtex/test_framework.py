"""Folders, checkpoint files, options and the small parts of the run."""

import gc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from clevrtex.experiments.dtisprites import DTISprites
from clevrtex.experiments.genesisv2 import GenesisV2
from clevrtex.experiments.iodine import Iodine
from clevrtex.experiments.monet import MONet
from clevrtex.experiments.slota import SlotAttention
from clevrtex.framework import folders
from clevrtex.framework.checkpoints import BestAndLast, read
from clevrtex.framework.commandline import UsageError, call, check_type
from clevrtex.framework.learning_rate_range import range_test
from clevrtex.framework.optim import parse_rate
from clevrtex.framework.options import Hyperparameters, RunOptions, describe, fill, option, settle_length
from clevrtex.framework.profiling import StepProfiler
from clevrtex.framework.scheduled_values import ScheduledValues
from clevrtex.framework.training import collecting_garbage, num_workers, seed_of
from clevrtex.framework.validator import at_most
from core.data.loader import TrainingLoader
from core.files import occupy
from core.training.checkpoint import CheckpointError, load
from core.training.launch import make_accelerator


def test_folders_are_numbered_and_found_again(tmp_path: Path):
    made = [folders.fresh_folder(tmp_path, "clecm/slota/x", shared=False) for _ in range(3)]
    assert [folder.name for folder in made] == ["x", "x_0", "x_1"]
    shared = folders.fresh_folder(tmp_path, "clecm/slota/x", shared=True)
    assert shared.name.startswith("x__id")
    folders.fresh_folder(tmp_path, "clecm/slota/x_long", shared=False)
    assert set(folders.runs_of(tmp_path, "clecm/slota/x")) == {*made, shared}


def test_a_job_has_the_folder_of_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    folder = folders.fresh_folder(tmp_path, "a/b/c", shared=False)
    assert folder.name == "c__id77-0"
    assert folders.fresh_folder(tmp_path, "a/b/c", shared=False) == folder, "the job was started again"
    lock = occupy(folder)
    second = folders.fresh_folder(tmp_path, "a/b/c", shared=False)
    assert second.name == "c__id77-0_0", "a process works at the first"
    lock.close()
    folders.finish(folder, succeeded=True)
    (second / folders.CHECKPOINTS).mkdir()
    (second / folders.CHECKPOINTS / folders.LAST).write_bytes(b"")
    third = folders.fresh_folder(tmp_path, "a/b/c", shared=False)
    assert third.name == "c__id77-0_1", "the first has ended, the second has saved"
    assert folders.runs_of(tmp_path, "a/b/c") == [folder, second, third]


def test_only_an_unfinished_run_with_the_same_flags_goes_on(tmp_path: Path):
    def write(name: str, tag: str) -> Path:
        folder = folders.fresh_folder(tmp_path, name, shared=False)
        (folder / folders.HPARAMS).write_text(yaml.safe_dump({"tag": tag, "slots": 3}))
        (folder / folders.CHECKPOINTS).mkdir()
        (folder / folders.CHECKPOINTS / folders.LAST).write_bytes(b"")
        return folder

    wanted = {"tag": "x", "slots": 3}
    assert folders.unfinished_run(tmp_path, "d/m/x", wanted) is None
    done, other, open_run = write("d/m/x", "x"), write("d/m/x", "y"), write("d/m/x", "x")
    folders.finish(done, succeeded=True)
    assert folders.unfinished_run(tmp_path, "d/m/x", wanted) == open_run / "checkpoints/last.ckpt"
    lock = occupy(open_run)
    assert occupy(open_run) is None
    assert folders.unfinished_run(tmp_path, "d/m/x", wanted) is None, "a process works at it"
    lock.close()
    folders.finish(open_run, succeeded=False)
    assert (open_run / "INTERRUPT").exists()
    assert folders.unfinished_run(tmp_path, "d/m/x", wanted) is not None
    assert folders.read_hparams(other)["tag"] == "y"


def test_best_checkpoints_are_kept_in_order(tmp_path: Path):
    files = BestAndLast(tmp_path, save_top=2)
    for step, score in enumerate([5.0, 3.0, float("nan"), 4.0, 1.0, 9.0]):
        files.note(score)
        files.save(step, {"step": step, "score": torch.tensor(score)})
    saved = {path.name: load(path)["step"] for path in files.folder.iterdir()}
    assert saved == {"best.ckpt": 4, "best-v1.ckpt": 1, "last.ckpt": 5}
    assert files.scores == [1.0, 3.0]
    files.save(6, {"step": 6})
    assert load(files.folder / "best.ckpt")["step"] == 4, "only validated states are the best"


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path):
    files = BestAndLast(tmp_path)
    files.note(1.0)
    last = files.save(3, {"step": 3})
    content = last.read_bytes()
    last.unlink()
    last.write_bytes(content[:50])
    with pytest.warns(UserWarning, match=r"last\.ckpt: not a readable checkpoint"):
        path, state = read(last)
    assert (path.name, state["step"]) == ("best.ckpt", 3)
    path.write_bytes(content[:50])
    with (
        pytest.warns(UserWarning, match="Continuing from"),
        pytest.raises(CheckpointError, match=r"best\.ckpt.* Start anew with --resume False"),
    ):
        read(last)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"last\.ckpt: .* Start anew with --resume False"):
        read(last)


@dataclass(kw_only=True)
class Example(Hyperparameters):
    """An example."""

    name = "example"
    batch_size: int = option(7)
    width: float = option(2.5, "how wide", above=0)


def test_flags_get_their_types_defaults_and_help():
    given = {}

    def run(**flags):
        """Run it."""
        given.update(flags)

    call(
        {"run": describe(run, Example, RunOptions)}, ["--width", "3", "run", "--tag", "12", "--gpus", "[0,1]", "--ddp"]
    )
    assert given == {"width": 3, "tag": 12, "gpus": [0, 1], "ddp": True}
    example, options = fill(Example, given), fill(RunOptions, given)
    assert (example.batch_size, example.width, example.tag, example.max_steps) == (7, 3.0, "12", 500_000)
    assert (options.gpus, options.ddp, options.save_top) == ([0, 1], True, 1)
    assert "width: how wide" in run.__doc__
    assert "batch_size: pictures per process and step" in run.__doc__, "inherited with another default"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], r"no command: say run, or --help; did you mean run\?"),
        (["run", "--widht", "3"], r"no flag '--widht'; did you mean --width\?"),
        (["run", "--width", "3", "--width=4"], "--width is given twice"),
        (["run", "--width", "3", "4"], "'4' belongs to no flag"),
        (["run", "-w", "3"], "no flag '-w'"),
    ],
)
def test_what_is_no_command_line(words: list[str], message: str):
    def run(**flags):
        """Run it."""

    with pytest.raises(UsageError, match=message):
        call({"run": describe(run, Example)}, words)


def test_types_of_flags():
    assert check_type("x", 3, float) == 3.0
    assert check_type("x", (1, 2), int | list[int] | None) == [1, 2]
    assert check_type("x", None, int | None) is None
    for value, annotation in ((True, int), (1.5, int), ("a", float), ([1], str)):
        with pytest.raises(UsageError, match="--x"):
            check_type("x", value, annotation)


@pytest.mark.parametrize(
    ("group", "flag", "wrong", "expected", "right"),
    [
        (Example, "batch_size", -8, "at least 1", 1),  # inherited with another default
        (Example, "width", 0, "more than 0", 0.1),
        (Example, "max_steps", 0, "at least 1", 1),
        (RunOptions, "acc", -1, "at least 1", 1),
        (RunOptions, "save_top", 0, "at least 1", 2),
        (RunOptions, "checkpoint_every", 0, "at least 1", 1),
        (RunOptions, "log_every", 0, "at least 1", 1),
        (RunOptions, "limit", 0, "more than 0", 0.5),
        (RunOptions, "limit", float("nan"), "more than 0", None),
        (Iodine, "K", 1, "at least 2", 2),
        (Iodine, "inference_iters", 0, "at least 1", 1),
        (Iodine, "std", 0, "more than 0", 0.1),
        (GenesisV2, "slots", 1, "at least 2", 2),
        (SlotAttention, "slots", 0, "at least 1", 1),
        (SlotAttention, "width", 0, "at least 1", 1),
        (MONet, "n_slots", 0, "at least 1", 1),
    ],
)
def test_ranges_of_flags(group: type, flag: str, wrong: float, expected: str, right: float | None):
    with pytest.raises(UsageError, match=f"--{flag} {wrong}.*: expected {expected}"):
        fill(group, {flag: wrong})
    assert getattr(fill(group, {flag: right}), flag) == right


@pytest.mark.parametrize("text", ["decay(10,0)", "decay(-1,10)", "decay(10,100,-0.5)", "warm(-2)"])
def test_rates_that_are_out_of_range(text: str):
    with pytest.raises(ValueError, match=r"--lr '(decay|warm).*: expected decay\(WARMUP,HALF_LIFE\[,RATE\]\)"):
        parse_rate(text)


@pytest.mark.parametrize("batch_size", [0, -8])
def test_there_are_no_empty_batches(batch_size: int):
    with pytest.raises(ValueError, match=f"batches of {batch_size} samples: expected at least 1"):
        TrainingLoader(Numbers(), batch_size, seed=0, device=torch.device("cpu"))


def test_steps_take_the_place_of_epochs():
    assert fill(DTISprites, settle_length({"slots": 3})).epochs == 450
    given = settle_length({"max_steps": 7, "slots": 3})
    assert (fill(DTISprites, given).epochs, fill(DTISprites, given).max_steps) == (None, 7)
    assert settle_length({"max_steps": 7, "epochs": None})["epochs"] is None
    with pytest.raises(UsageError, match="--max_steps 7 and --epochs 3: give one of them"):
        settle_length({"max_steps": 7, "epochs": 3})


def test_scheduled_values_are_set_before_their_batches():
    model = nn.Linear(1, 1)
    model.sigma, model.kind = 0.0, ""
    model.register_buffer("prior", torch.zeros(1, 2))
    texts = {"sigma": "itr_lin(5,0.5,0.1)", "prior": "lin(2,1,3)", "kind": "switch(1:set(a):set(b))"}
    scheduled = ScheduledValues(texts, steps_per_epoch=2, max_steps=8)
    seen = []
    for _ in scheduled.before(model, 1, iter([{}] * 4)):
        seen.append((round(model.sigma, 6), model.prior.tolist(), model.kind))
    assert [entry[0] for entry in seen] == [0.4, 0.3, 0.2, 0.1]
    assert [entry[1] for entry in seen] == [[[1.0, 1.0]], [[3.0, 3.0]], [[3.0, 3.0]], [[3.0, 3.0]]]
    assert [entry[2] for entry in seen] == ["a", "a", "a", "b"]
    assert scheduled.numbers(model) == {"sigma": model.sigma, "prior": torch.tensor(3.0)}
    with pytest.raises(AttributeError, match="'sigmma'"):
        ScheduledValues({"sigmma": "0.1"}, 2, 8).set(model, 0)


def test_batches_of_an_epoch():
    assert [at_most(limit, 40) for limit in (5, 100, 0.5, 0.001)] == [5, 40, 20, 1]


def test_garbage_is_collected_when_asked_and_at_no_other_time(capsys: pytest.CaptureFixture):
    batches = collecting_garbage(iter([{"a": torch.zeros(1)}] * 5), every=2, steps_per_epoch=4)
    seen = [gc.isenabled() for _ in batches]
    assert seen == [False] * 5
    assert gc.isenabled()
    assert capsys.readouterr().out.count("objects per collection") == 1
    assert len(list(collecting_garbage(iter([{}] * 3), 0, 1))) == 3


def test_seeds_and_workers():
    assert (seed_of(None), seed_of(12)) == (0, 12)
    assert seed_of("random") != seed_of("random")
    for wrong in (-1, 2**32, "rnd"):
        with pytest.raises(ValueError, match="--seed"):
            seed_of(wrong)
    assert (num_workers("no", 8), num_workers(3, 8)) == (0, 3)
    assert 1 <= num_workers(-1, 32) <= 4


class Numbers:
    """Ten samples."""

    def __len__(self) -> int:
        return 10

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        return {"number": torch.from_numpy(indices)}


class Bowl(nn.Module):
    """Whose loss is the squared distance from a point."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.full((4,), 10.0))

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return {"loss": self.place.square().sum()}


def test_range_test_suggests_a_rate_at_which_the_loss_falls():
    suggestion, table = range_test(Bowl(), "sgd", iter([{}] * 200), make_accelerator(), None)
    assert 1e-3 < suggestion < 0.9
    assert len(table.splitlines()) > 10


class NoisyBowl(Bowl):
    """Whose batches add to the loss."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return {"loss": super().loss(batch, step)["loss"] + batch["more"]}


def test_range_test_is_not_led_by_single_batches():
    batches = [{"more": torch.tensor(100.0 if step == 0 else 0.0)} for step in range(200)]
    suggestion, _ = range_test(NoisyBowl(), "sgd", iter(batches), make_accelerator(), None)
    assert 1e-3 < suggestion < 0.9, "the means fall most where the first batch is forgotten"


def test_range_test_without_descent():
    batches = [{"more": torch.tensor(100.0 * step)} for step in range(200)]
    with pytest.raises(ValueError, match=r"--tune: the loss falls at no rate"):
        range_test(NoisyBowl(), "sgd", iter(batches), make_accelerator(), None)


@pytest.mark.parametrize("steps", [3, 8, 16])
def test_profile_of_a_training_that_may_end_early(tmp_path: Path, capsys: pytest.CaptureFixture, steps: int):
    profiler = StepProfiler(tmp_path / "profile.out")
    for step in range(steps):
        torch.ones(3).exp()
        profiler(step, {})
    profiler.close()
    assert ("nothing is profiled before step 6 of a run, and this one had 3" in capsys.readouterr().out) == (steps == 3)
    if steps > 3:
        assert f"{min(steps - 5, 10)}  " in next(
            line for line in (tmp_path / "profile.out").read_text().splitlines() if "aten::exp" in line
        )
