"""A trained model is opened again from its checkpoint file or its run folder."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from core.runs import RunRecord, load_model
from core.training.checkpoint import CheckpointError, CheckpointFolder, save

ARGUMENTS = {"in_features": 3, "out_features": 2}


def record_of(folder: str = ".", **changes) -> RunRecord:
    fields = {
        "paper": "emorl",
        "builder": "torch.nn:Linear",
        "arguments": ARGUMENTS,
        "data": {"h5_path": "tetrominoes.h5"},
        "seed": 1,
        "checkpoints": {"folder": folder, "prefix": "run20-state-", "suffix": ".pth"},
    }
    return RunRecord(**fields | changes)


def weights(step: int) -> dict:
    return {"weight": torch.full((2, 3), float(step)), "bias": torch.tensor([0.25, step / 3])}


def write_run(folder: Path, steps: tuple[int, ...] = (5, 10), name: str = "run.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    record = record_of()
    record.write(folder / name)
    for step in steps:
        state = {"step": step, "model": weights(step), "run": record.to_dict()}
        CheckpointFolder(folder, "run20-state-").save(step, state)
    return folder


def is_of_step(model: nn.Module, step: int) -> bool:
    return all(torch.equal(model.state_dict()[key], value) for key, value in weights(step).items())


def test_from_a_file(tmp_path):
    model, record = load_model(write_run(tmp_path) / "run20-state-5.pth")
    assert isinstance(model, nn.Linear)
    assert is_of_step(model, 5)
    assert not model.training
    assert record == record_of()


def test_a_file_needs_no_folder_around_it(tmp_path):
    file = write_run(tmp_path) / "run20-state-5.pth"
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "weights.pth")
    assert is_of_step(load_model(str(moved))[0], 5)


@pytest.mark.parametrize("name", ["run.json", "run20.run.json", "weights/run20.run.json"])
def test_from_a_folder(tmp_path, name):
    write_run((tmp_path / name).parent, name=Path(name).name)
    model, record = load_model(tmp_path)
    assert is_of_step(model, 10)
    assert not model.training
    assert record.paper == "emorl"


def test_from_a_folder_whose_checkpoints_lie_elsewhere(tmp_path):
    write_run(tmp_path / "weights")
    record_of("weights").write(tmp_path / "run.json")
    (tmp_path / "weights" / "run.json").unlink()
    assert is_of_step(load_model(tmp_path)[0], 10)


def test_from_a_folder_whose_newest_checkpoint_has_one_name(tmp_path):
    record = record_of(checkpoints={"file": "checkpoints/last.ckpt"})
    record.write(tmp_path / "run.json")
    with pytest.raises(CheckpointError, match=r"checkpoints/last\.ckpt: no such checkpoint"):
        load_model(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for step, name in ((1, "best.ckpt"), (2, "last.ckpt")):
        save(tmp_path / "checkpoints" / name, {"step": step, "model": weights(step), "run": record.to_dict()})
    assert is_of_step(load_model(tmp_path)[0], 2)
    assert is_of_step(load_model(tmp_path / "checkpoints/best.ckpt")[0], 1)


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path):
    path = write_run(tmp_path) / "run20-state-10.pth"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.warns(UserWarning, match=r"run20-state-10\.pth: .*Falling back to an older checkpoint"):
        model, _ = load_model(tmp_path)
    assert is_of_step(model, 5)


def test_a_record_survives_the_round_trip(tmp_path):
    record = record_of(versions={"torch": "2"}, commit="abc+")
    record.write(tmp_path / "run.json")
    assert RunRecord.from_dict(json.loads((tmp_path / "run.json").read_text())) == record
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_record_says_what_made_it():
    record = record_of()
    assert record.versions["torch"] == torch.__version__
    assert re.fullmatch(r"([0-9a-f]{40}\+?)?", record.commit)


def test_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: no such file or folder"):
        load_model(tmp_path / "nowhere")


def test_a_folder_without_a_record(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected one run\.json, found none\. Give a checkpoint file instead"):
        load_model(tmp_path)


def test_a_folder_with_two_records_names_them(tmp_path):
    write_run(tmp_path / "weights", name="a.run.json")
    write_run(tmp_path / "weights", name="b.run.json")
    with pytest.raises(CheckpointError, match=r"found weights/(a|b)\.run\.json, weights/(a|b)\.run\.json\. Give a ch"):
        load_model(tmp_path)


def test_a_folder_without_checkpoints(tmp_path):
    write_run(tmp_path, steps=())
    with pytest.raises(CheckpointError, match=r"no readable checkpoint run20-state-<step>\.pth yet"):
        load_model(tmp_path)


def test_a_record_whose_checkpoint_folder_is_gone(tmp_path):
    record_of("gone").write(tmp_path / "run.json")
    with pytest.raises(CheckpointError, match=r"no readable checkpoint run20-state-<step>\.pth"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"paper": "emorl"}', '{"unknown": 1}'])
def test_a_damaged_record_is_named(tmp_path, content):
    write_run(tmp_path)
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"(?s)run\.json: .*Give a checkpoint file instead"):
        load_model(tmp_path)


def test_a_record_that_does_not_say_where_its_checkpoints_lie(tmp_path):
    record = record_of(checkpoints={})
    record.write(tmp_path / "run.json")
    with pytest.raises(
        CheckpointError, match=r"run\.json: `checkpoints` lacks .*folder.*Give a checkpoint file instead"
    ):
        load_model(tmp_path)
    save(tmp_path / "a.pth", {"step": 1, "model": weights(1), "run": record.to_dict()})
    assert is_of_step(load_model(tmp_path / "a.pth")[0], 1)


def test_a_checkpoint_without_a_record(tmp_path):
    save(tmp_path / "a.pth", {"step": 1, "model": weights(1)})
    with pytest.raises(
        CheckpointError, match=r"a\.pth: holds no run record, so its model is unknown\. Open it with its"
    ):
        load_model(tmp_path / "a.pth")


def test_weights_of_another_model(tmp_path):
    record = record_of(arguments={"in_features": 4, "out_features": 2})
    save(tmp_path / "a.pth", {"step": 1, "model": weights(1), "run": record.to_dict()})
    with pytest.raises(CheckpointError, match=r"a\.pth: the weights are not those of this Linear:\n  weight: \[2, 3\]"):
        load_model(tmp_path / "a.pth")


def test_a_damaged_file(tmp_path):
    file = write_run(tmp_path) / "run20-state-10.pth"
    file.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"run20-state-10\.pth: not a readable checkpoint .* run20-state-5\.pth"):
        load_model(file)


def test_a_builder_that_is_no_model(tmp_path):
    with pytest.raises(TypeError, match=r"collections:Counter returned Counter, not an nn\.Module"):
        record_of(builder="collections:Counter", arguments={}).build()


@pytest.mark.parametrize("builder", ["no_such_package.models:build", "torch.nn:NoSuchModule"])
def test_a_builder_that_is_gone_is_named(tmp_path, builder):
    state = {"step": 1, "model": weights(1), "run": record_of(builder=builder).to_dict()}
    save(tmp_path / "a.pth", state)
    with pytest.raises(CheckpointError, match=rf"a\.pth: .*{builder}"):
        load_model(tmp_path / "a.pth")
