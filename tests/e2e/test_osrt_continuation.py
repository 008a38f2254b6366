"""What osrt/train.py makes of a run that is there already: it continues it, looks at it, or says why not."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from osrt.train import main
from tests.osrt_runs import largest_difference, rows, scalars, state_of, train_words

Said = tuple[int, str, str]


@pytest.fixture
def trained(views: Path, made_once, tmp_path: Path) -> Path:
    """A run of six iterations, evaluated after three and six."""

    def make(folder: Path) -> None:
        assert main(words(folder / "run", views)) == 0

    return Path(shutil.copytree(made_once("osrt_continuation", make) / "run", tmp_path / "run"))


def words(folder: Path, views: Path, *flags: object, **changes: object) -> list[str]:
    return [str(word) for word in train_words(folder, views, *flags, **changes)[1:]]


@pytest.fixture
def train(trained: Path, views: Path, capsys: pytest.CaptureFixture):
    """`train(*flags, **changes)`: exit code, output and errors of the command for the trained run."""

    def run(*flags: object, **changes: object) -> Said:
        code = main(words(trained, views, *flags, **changes))
        return code, *capsys.readouterr()

    return run


def test_looking_at_an_older_state_leaves_the_log(trained: Path, train) -> None:
    before, newest = rows(trained), state_of(trained)
    code, said, _ = train("--exit-after", 4, "--evalnow")
    assert (code, f"finished; the weights are in {trained}/model_4.pt" in said) == (0, True)
    assert rows(trained)[:-1] == before
    assert rows(trained)[-1]["step"] == 3
    assert largest_difference(state_of(trained), newest) == 0
    assert state_of(trained, "model_best.pt")["step"] in (2, 5)


def test_without_iterations_there_are_no_weights(views: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(words(tmp_path, views, "--exit-after", 0)) == 0
    assert "finished; nothing was trained, there are no weights" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.pt"))


def test_the_learning_rate_may_change(trained: Path, train) -> None:
    code, said, _ = train(max_it=9, print_every=1, peak_lr=5e-5, lr_warmup=4, decay_it=10**6)
    assert code == 0
    changes = ("decay_it: 4000000 -> 1000000", "lr_warmup: 2 -> 4", "max_it: 6 -> 9", "peak_lr: 0.0001 -> 5e-05")
    assert all(f"\n  training.{change}\n" in said for change in changes)
    assert scalars(trained, "train/lr")[-3:] == pytest.approx([5e-5] * 3, rel=1e-4)
    assert state_of(trained)["config"]["training"]["peak_lr"] == 5e-5


def test_a_diverging_run_leaves_its_log_and_a_remedy(views: Path, tmp_path: Path, capsys) -> None:
    code = main(words(tmp_path, views, peak_lr=1e30, print_every=1, checkpoint_every=0, backup_every=0))
    error = capsys.readouterr().err
    assert code == 1
    assert "step 2: the loss or its gradient is not finite" in error
    assert "The same command with a lower training.peak_lr or a longer training.lr_warmup (--set) continues" in error
    assert [row["step"] for row in rows(tmp_path) if "train/loss" in row] == [0, 1]


def test_a_metric_that_does_not_exist_is_found_before_any_step(trained: Path, train) -> None:
    code, _, error = train(max_it=9, model_selection_metric="ssim")
    assert code == 1
    assert "training.model_selection_metric: no score 'ssim' of this model on these data" in error
    assert state_of(trained)["step"] == 5


def test_an_evaluation_before_the_first_step_may_find_the_best_model(trained: Path, train) -> None:
    state = state_of(trained) | {"best": None, "best_it": None}
    torch.save(state, trained / "model.pt")
    (trained / "model_best.pt").unlink()
    code, said, _ = train("--evalnow", max_it=7, validate_every=0)
    assert (code, "New best model (psnr" in said) == (0, True)
    best = state_of(trained, "model_best.pt")
    assert (best["step"], best["best_it"]) == (5, 6)
    assert best["best"] == state_of(trained)["best"] == scalars(trained, "val/psnr")[-1]
    assert largest_difference(best, state) == 0
    assert state_of(trained)["step"] == 6


@pytest.mark.parametrize(("flags", "alike"), [((), True), (("--test",), False), (("--max-eval", 1), False)])
def test_the_best_value_counts_on_the_same_samples_alone(train, flags: tuple, alike: bool) -> None:
    code, said, _ = train(*flags)
    assert code == 0
    assert ("best psnr so far: none yet" in said) is not alike


def test_a_checkpoint_of_something_else_is_refused(trained: Path, train) -> None:
    torch.save({"step": 3, "model": {}, "config": {"num_slots": 5}}, trained / "model.pt")
    code, _, error = train()
    assert code == 1
    assert f"{trained}/model.pt: a checkpoint of something else" in error


def test_the_decoder_must_exist(views: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(words(tmp_path, views, "--set", "model.decoder=slot_mixr")) == 1
    assert "no 'slot_mixr'; did you mean 'slot_mixer'?" in capsys.readouterr().err


def test_a_process_that_is_killed_gives_the_code_that_a_shell_would(tmp_path: Path, monkeypatch) -> None:
    script = tmp_path / "dies.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert main(["config.yaml", "--processes", "2"]) == 128 + 9
