"""What a training does with checkpoints that it finds, with a model of one number."""

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.training.checkpoint import CheckpointError, load
from slotformer.framework import training
from slotformer.framework.comparison import decisive_differences
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.framework.training import Options
from slotformer.scripts.train import parse_arguments
from slotformer.scripts.train import train as train_as_told
from slotformer.video_prediction import Keys
from tests.conftest import ROOT
from tests.slotformer.test_validation_scores import PlainMethod

MODELS = Path("checkpoint/a/models")


class Ones:
    """Four samples, each the number 1."""

    def __len__(self) -> int:
        return 4

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        return {"number": torch.ones(len(indices), 1)}


class Line(nn.Module):
    """Reaches for 1, and gives up at step `fails_at`."""

    def __init__(self, fails_at: int | None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.fails_at = fails_at

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        if self.training and step == self.fails_at:
            raise ValueError("out of numbers")
        return {"loss": (self.weight - batch["number"]).square().mean()}


class LineMethod(PlainMethod):
    def param_groups(self, model: nn.Module) -> list[dict]:
        return [{"params": list(model.parameters()), "lr": 0.1}]


def train(name: str, epochs: int = 1, fails_at: int | None = None, **options: object) -> bool:
    """Epochs of two steps in checkpoint/<name>, each of which is kept."""
    task = ModuleType("toy")
    task.Keys = Keys
    task.build_dataset = lambda params: (Ones(), Ones())
    task.build_model = lambda params: Line(fails_at)
    task.build_method = lambda params: LineMethod()
    Path("toy.py").touch()
    values = {"max_epochs": epochs, "train_batch_size": 2, "num_workers": 0, "save_epoch_end": True, "print_iter": 1}
    return training.train(task, BaseParams(values), Options(name, Path("toy.py"), **options))


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_training_goes_on_from_the_end_of_an_epoch_of_another_one():
    assert train("a", epochs=2)
    assert train("b", epochs=2, weight=MODELS / "model_2.pth")
    assert [path.name for path in Path("checkpoint/b/models/epoch").iterdir()] == ["model_2.pth"]
    assert load(Path("checkpoint/b/models/best.pth"))["step"] == 3


def test_what_a_killed_run_left_out_is_added(capsys):
    train("a", epochs=2)
    for name in ("best.pth", "epoch/model_2.pth"):
        (MODELS / name).unlink()
    assert train("a", epochs=2)
    assert "checkpoint/a/models/model_4.pth has all 2 epochs" in capsys.readouterr().out
    assert load(MODELS / "best.pth")["step"] == load(MODELS / "epoch" / "model_2.pth")["step"] == 3
    shutil.copyfile(MODELS / "model_2.pth", MODELS / "best.pth")
    train("a", epochs=2)
    assert load(MODELS / "best.pth")["step"] == 3


def test_a_finished_training_is_no_run_of_another_name():
    train("a")
    with pytest.raises(CheckpointError, match=r"model_2\.pth: has all 1 epochs, so nothing is left to train"):
        train("b", weight=MODELS / "model_2.pth")
    assert not Path("checkpoint/b").exists()


@pytest.mark.parametrize(("fails_at", "remains"), [(0, False), (1, True)])
def test_a_run_that_fails_keeps_its_curves(fails_at: int, remains: bool, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="out of numbers"):
        train("a", fails_at=fails_at)
    lines = Path("checkpoint/a/scalars.jsonl")
    assert lines.exists() == remains
    assert not remains or lines.read_text().startswith('{"step": 0, "train/loss"')


def test_weights_to_begin_with_are_for_runs_that_begin(capsys):
    train("a")
    train("a", init=Path("other.pth"))
    found = capsys.readouterr().out
    assert "note: --init other.pth is not used: the run goes on from checkpoint/a/models/model_2.pth" in found
    with pytest.raises(SystemExit) as refused:
        parse_arguments(["--params", "x", "--weight", "y", "--init", "z"])
    assert refused.value.code == 2
    assert "--weight continues a training and --init begins one" in capsys.readouterr().err


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("task", ["video_prediction", "clevrer_vqa"])
def test_the_task_of_a_configuration_is_named(task: str, copied: bool, tmp_path: Path):
    [file, *_] = sorted((ROOT / "slotformer" / task / "configs").glob("*.py"))
    if copied:
        file = shutil.copy(file, tmp_path / "mine.py")
    words = ["--params", str(file)]
    with pytest.raises(ParamsError, match=rf"{Path(file).name}: a configuration of another task: give --task {task}"):
        train_as_told(parse_arguments(words), words, "slotformer")


def test_a_misspelt_key_is_named():
    file = ROOT / "slotformer" / "base_slots" / "configs" / "savi_obj3d_params.py"
    words = ["--params", str(file), "--set", "learning_rate=1"]
    with pytest.raises(ParamsError, match="no key 'learning_rate'"):
        train_as_told(parse_arguments(words), words, "slotformer")


class VariedOnes(Ones):
    def read_varied(self, indices: np.ndarray, generators: list) -> dict[str, Tensor]:
        return self.read(indices)


def test_data_that_vary_are_not_resident(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"{__name__}.Ones", VariedOnes)
    with pytest.raises(ParamsError, match="leave --resident out"):
        train("a", resident=True)


def test_moved_weights_and_defaults_do_not_make_another_run():
    saved = {"lr": 0.1, "dec_dict": {"dec_ckp_path": "a", "vae_dict": {"vqvae_ckp_path": "a", "size": 1}}}
    moved = {"lr": 0.1, "dec_dict": {"dec_ckp_path": "b", "vae_dict": {"vqvae_ckp_path": "b", "size": 1}}}
    assert decisive_differences(saved, {**moved, "use_loss_decay": False, "frame_offset": 1, "seed": 3}, Keys) == []
    moved["dec_dict"]["vae_dict"]["size"] = 2
    assert decisive_differences(saved, {**moved, "use_loss_decay": True}, Keys) == [
        "dec_dict.vae_dict.size: 1 -> 2",
        "use_loss_decay: False -> True",
    ]


def test_checkpoints_that_lay_elsewhere_and_are_gone(tmp_path: Path):
    Path("checkpoint/a").mkdir(parents=True)
    MODELS.symlink_to(tmp_path / "purged")
    with pytest.raises(CheckpointError, match="purged, which is gone, and the checkpoints with it"):
        train("a")
