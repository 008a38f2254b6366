"""Checkpoints of the original code and the files of a run."""

import math
from pathlib import Path

import pytest
import torch

from core.training.checkpoint import CheckpointError, load, save
from osrt import original
from osrt.checkpoints import RunFiles, config_of
from osrt.models import LightField
from tests.osrt_samples import small_model
from tests.tiny_runs import tensors


def with_moments(model: LightField) -> torch.optim.Adam:
    """Adam after one step of drawn gradients."""
    optimizer = torch.optim.Adam(model.parameters())
    for value in model.parameters():
        value.grad = torch.randn_like(value)
    optimizer.step()
    return optimizer


def ours(model: LightField, **changes: object) -> dict:
    state = {"step": 7, "seconds": 1.5, "model": model.state_dict(), "optimizer": with_moments(model).state_dict()}
    return {**state, "best": 20.5, "run_id": "abc", **changes}


def test_there_and_back() -> None:
    model = small_model()
    state = ours(model)
    theirs = original.export_state(state, best_if_none=-math.inf)
    assert set(theirs) == {"encoder", "decoder", "optimizer", "epoch_it", "it", "t", "loss_val_best", "run_id"}
    assert next(iter(theirs["encoder"])) == "srt_encoder.conv_blocks.0.layers.0.weight"
    assert original.is_original(theirs)
    assert not original.is_original(state)
    other = small_model(seed=1)
    back = original.training_state(theirs, other, torch.optim.Adam(other.parameters()), "model.pt")
    assert (back["step"], back["seconds"], back["best"], back["run_id"]) == (7, 1.5, 20.5, "abc")
    for part in ("model", "optimizer"):
        for name, value in tensors(state[part]).items():
            assert torch.equal(tensors(back[part])[name], value), name


def test_moments_follow_their_parameters() -> None:
    """The original counts parameters in the order of its state dicts, whatever that is."""
    model = small_model()
    state = ours(model)
    theirs = original.export_state(state, best_if_none=0.0)
    counted = list(state["optimizer"]["state"].values())
    number = {name: index for index, name in enumerate(state["model"])}
    theirs |= {part: dict(reversed(theirs[part].items())) for part in original.PARTS}
    order = [number[f"{part}.{name}"] for part in original.PARTS for name in theirs[part]]
    theirs["optimizer"] = {**theirs["optimizer"], "state": {new: counted[old] for new, old in enumerate(order)}}
    back = original.training_state(theirs, model, with_moments(small_model()), "model.pt")
    for index, moments in state["optimizer"]["state"].items():
        assert torch.equal(back["optimizer"]["state"][index]["exp_avg"], moments["exp_avg"])


@pytest.mark.parametrize("best", [-math.inf, math.inf, None])
def test_no_best_yet(best: float | None) -> None:
    model = small_model()
    theirs = original.export_state(ours(model), best_if_none=0.0) | {"loss_val_best": best}
    assert original.training_state(theirs, model, with_moments(model), "model.pt")["best"] is None
    assert original.export_state(ours(model, best=None), best_if_none=math.inf)["loss_val_best"] == math.inf


def test_what_is_no_training(tmp_path: Path) -> None:
    model = small_model()
    theirs = original.export_state(ours(model), best_if_none=0.0)
    del theirs["optimizer"]
    with pytest.raises(CheckpointError, match=r"model.pt: of the original code, but without optimizer"):
        original.training_state(theirs, model, with_moments(model), "model.pt")
    with pytest.raises(CheckpointError, match=r"x.pt: holds no weights"):
        original.weights_of({"step": 1}, "x.pt")
    assert original.weights_of(theirs, "model.pt").keys() == model.state_dict().keys()
    assert original.weights_of(ours(model), "model.pt").keys() == model.state_dict().keys()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_files_of_a_run(tmp_path: Path) -> None:
    files = RunFiles(tmp_path, backup_every=4)
    assert files.to_resume(8) is None
    for step in range(6):
        if step == 1:
            files.note_best()
        files.save(step, {"step": step})
    assert names(tmp_path) == {"model.pt", "model_best.pt", "model_4.pt"}
    assert [load(tmp_path / name)["step"] for name in ("model.pt", "model_best.pt", "model_4.pt")] == [5, 1, 3]
    assert files.to_resume(8)[1]["step"] == 5
    assert files.to_resume(4)[0].name == "model_4.pt", "the run of four iterations is this one"


def test_a_damaged_file_is_named_and_another_taken(tmp_path: Path) -> None:
    files = RunFiles(tmp_path, backup_every=2)
    for step in range(5):
        files.save(step, {"step": step})
    (tmp_path / "model.pt").write_bytes(b"half")
    with pytest.warns(UserWarning, match=r"model.pt: not a readable checkpoint .* Falling back"):
        path, state = files.to_resume(100)
    assert (path.name, state["step"]) == ("model_4.pt", 3)
    save(tmp_path / "model_best.pt", {"step": 4})
    with pytest.warns(UserWarning, match=r"model.pt: not a readable checkpoint"):
        path, state = files.to_resume(100)
    assert (path.name, state["step"]) == ("model_best.pt", 4), "newer than all backups"
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"half")
    with (
        pytest.warns(UserWarning, match="Falling back"),
        pytest.raises(CheckpointError, match="no checkpoint can be read"),
    ):
        files.to_resume(100)


def test_names_that_a_killed_process_left_out_are_given(tmp_path: Path) -> None:
    files = RunFiles(tmp_path, backup_every=3)
    save(tmp_path / "model.pt", {"step": 2})
    files.complete(3, is_best=True)
    assert names(tmp_path) == {"model.pt", "model_best.pt", "model_3.pt"}
    (tmp_path / ".model.pt.5.partial").touch()
    files.remove_partial_files()
    assert len(names(tmp_path)) == 3


def test_the_configuration_in_a_checkpoint() -> None:
    sections = {"data": {"path": None}, "model": {}, "training": {}}
    assert config_of({"step": 1}, Path("model.pt")) is None
    assert config_of({"config": sections | {"other": 1}}, Path("model.pt")) == sections
    for config in ({"num_slots": 5}, sections | {"model": "cswm"}, "words"):
        with pytest.raises(CheckpointError, match=r"model.pt: a checkpoint of something else: .* model, training"):
            config_of({"config": config}, Path("model.pt"))
