"""What a checkpoint holds, how damage is noticed, and which files of a run stay."""

import math
import os
import random
import re
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from core.training.checkpoint import (
    CheckpointError,
    CheckpointFolder,
    config_differences,
    load,
    load_weights,
    save,
)


def state_of(step: int) -> dict:
    generator = torch.Generator().manual_seed(step)
    return {
        "step": step,
        "model": OrderedDict(weight=torch.randn(7, 5, generator=generator), ema=torch.tensor(step / 3)),
        "optimizer": {"state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.randn(9, generator=generator)}}},
        "scaler": None,
        "config": {"seed": 1, "betas": (0.9, 0.999), "name": "a/b", "curriculum": [[-1, 3], [100000, 1]]},
        "finished": False,
        "raw": b"\x00\xff",
    }


def same(first, second) -> bool:
    """Equal in type and value, tensors bit for bit."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(same(one, other) for one, other in zip(first, second))
    return first == second


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def run(tmp_path) -> CheckpointFolder:
    """A run with checkpoints of steps 5 and 10."""
    folder = CheckpointFolder(tmp_path, "run-state-")
    for step in (5, 10):
        folder.save(step, state_of(step))
    return folder


def test_round_trip(run):
    assert same(load(run.path(5)), state_of(5))
    step10 = run.newest()
    assert step10[0] == run.path(10)
    assert same(step10[1], state_of(10))
    assert names(run.folder) == ["run-state-10.pth", "run-state-5.pth"]


def test_parameters_and_half_precision_round_trip(tmp_path):
    state = {
        "a": nn.Parameter(torch.randn(3)),
        "b": torch.randn(3).bfloat16(),
        "c": torch.tensor([math.nan, math.inf]),
        "d": torch.arange(3, dtype=torch.uint8),
        "e": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }
    save(tmp_path / "a.pt", state)
    read = load(tmp_path / "a.pt")
    assert torch.equal(read["a"], state["a"])
    assert torch.equal(read["b"], state["b"])
    assert read["c"].isnan().tolist() == [True, False]
    assert read["c"][1] == math.inf
    assert (read["d"].dtype, read["d"].tolist()) == (torch.uint8, [0, 1, 2])
    assert torch.equal(read["e"], state["e"])


class Foreign:
    """Not a builtin type."""


@pytest.mark.parametrize(
    "foreign",
    [Foreign(), np.zeros(3), np.float32(1), Path("a"), {1, 2}, torch.float32, torch.Size([1]), 1j, slice(3)],
    ids=lambda value: type(value).__name__,
)
def test_foreign_types_are_not_written(tmp_path, foreign):
    with pytest.raises(AssertionError, match=rf"state\['a'\]\[1\]\['b'\] is a {type(foreign).__name__}"):
        save(tmp_path / "a.pth", {"a": [0, {"b": foreign}]})
    assert not list(tmp_path.iterdir())


def test_foreign_keys_are_not_written(tmp_path):
    with pytest.raises(AssertionError, match=r"a key of state\['a'\] is a int64"):
        save(tmp_path / "a.pth", {"a": {np.int64(3): 1}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("foreign", [Foreign(), np.zeros(3), Path("a")], ids=lambda value: type(value).__name__)
def test_foreign_types_are_not_read(run, foreign):
    torch.save({"step": 15, "a": foreign}, run.path(15))
    message = (
        r"run-state-15\.pth: not a readable checkpoint .* or holds more than tensors and builtin types\. The newest"
    )
    with pytest.raises(CheckpointError, match=message):
        load(run.path(15))


def test_code_in_a_checkpoint_is_not_run(run, tmp_path):
    torch.save({"step": 15, "a": Trap(tmp_path / "sprung")}, run.path(15))
    with pytest.raises(CheckpointError, match=r"run-state-15\.pth: not a readable checkpoint"):
        load(run.path(15))
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Unpickled without care, it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], 7], ids=["Tensor", "list", "int"])
def test_a_file_that_is_no_state(run, content):
    torch.save(content, run.path(15))
    with pytest.raises(CheckpointError, match=rf"run-state-15\.pth: holds a {type(content).__name__}, no checkpoint"):
        load(run.path(15))


def test_a_missing_file_names_the_newest_other(run):
    with pytest.raises(CheckpointError, match=r"run-state-7\.pth: no such checkpoint\. The newest .*run-state-10\.pth"):
        load(run.path(7))
    with pytest.raises(CheckpointError, match=r"a\.pth: no such checkpoint\. There is no other beside it"):
        load(run.folder / "elsewhere" / "a.pth")


def test_truncation_at_any_length(run):
    whole = run.path(10).read_bytes()
    lengths = {0, 1, 2, 4, 30, 100, *range(0, len(whole), len(whole) // 60), len(whole) - 22, len(whole) - 1}
    for length in lengths:
        run.path(10).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"run-state-10\.pth: .* newest other .* is run-state-5\.pth"):
            load(run.path(10))


def test_a_single_flipped_bit(run):
    """Either the file is refused, or the bit lies where it means nothing."""
    whole = run.path(10).read_bytes()
    bits = random.Random(0).sample(range(8 * len(whole)), 250)
    messages = []
    for bit in bits:
        run.path(10).write_bytes(flipped(whole, bit))
        try:
            assert same(load(run.path(10)), state_of(10)), f"bit {bit} changed the content unnoticed"
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all("run-state-10.pth: " in message and "run-state-5.pth" in message for message in messages)


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_a_flipped_bit_in_the_data_is_always_noticed(run):
    whole = run.path(10).read_bytes()
    with zipfile.ZipFile(run.path(10)) as archive:
        records = [(record, archive.read(record)) for record in archive.infolist()]
    for record, content in records:
        begin = whole.index(content, record.header_offset)
        for bit in {0, 8 * (len(content) // 2) + 3, 8 * len(content) - 1}:
            run.path(10).write_bytes(flipped(whole, 8 * begin + bit))
            with pytest.raises(CheckpointError, match=r"run-state-10\.pth: damaged in archive/"):
                load(run.path(10))


def test_a_record_that_calls_itself_a_folder(run):
    """torch leaves such a record unread, and the tensor uninitialised."""
    whole = run.path(10).read_bytes()
    entries = [match.start() for match in re.finditer(b"PK\x01\x02", whole)]
    assert len(entries) > 4
    for entry in entries:
        # Bit 4 of the external attributes.
        run.path(10).write_bytes(flipped(whole, 8 * (entry + 38) + 4))
        with pytest.raises(CheckpointError, match=r"run-state-10\.pth: damaged in archive/"):
            load(run.path(10))


def test_newest_falls_back_and_deletes_nothing(run):
    run.save(15, state_of(15))
    whole = run.path(15).read_bytes()
    run.path(15).write_bytes(whole[:-100])
    run.path(10).write_bytes(b"")
    with pytest.warns(UserWarning, match="Falling back to an older checkpoint") as warned:
        path, state = run.newest()
    assert path == run.path(5)
    assert same(state, state_of(5))
    assert [re.search(r"run-state-\d+\.pth", str(warning.message))[0] for warning in warned] == [
        "run-state-15.pth",
        "run-state-10.pth",
    ]
    assert run.steps() == [5, 10, 15]
    assert run.path(15).read_bytes() == whole[:-100]


def test_newest_of_nothing(tmp_path):
    folder = CheckpointFolder(tmp_path, "run-state-")
    assert folder.newest() is None
    folder.path(3).write_bytes(b"no checkpoint")
    with pytest.warns(UserWarning, match=r"run-state-3\.pth: not a readable checkpoint"):
        assert folder.newest() is None


def test_only_files_of_the_run_count(run):
    for name in (
        "run-state-20.pt",
        "run-state-x.pth",
        "other-state-30.pth",
        "my-run-state-40.pth",
        ".run-state-50.pth",
    ):
        shutil.copy(run.path(5), run.folder / name)
    assert run.steps() == [5, 10]


def test_steps_are_ordered_as_numbers(tmp_path):
    folder = CheckpointFolder(tmp_path, "model_", ".pt")
    for step in (100, 9, 20):
        folder.save(step, {"step": step})
    assert folder.steps() == [9, 20, 100]
    assert folder.newest()[1] == {"step": 100}


@pytest.mark.parametrize(("keep", "kept"), [(1, [6]), (2, [5, 6]), (4, [3, 4, 5, 6]), (None, [1, 2, 3, 4, 5, 6])])
def test_keep(tmp_path, keep, kept):
    folder = CheckpointFolder(tmp_path, "run-state-", keep=keep)
    (tmp_path / "other-state-1.pth").write_bytes(b"")
    for step in range(1, 7):
        assert folder.save(step, {"step": step}) == folder.path(step)
    assert folder.steps() == kept
    assert (tmp_path / "other-state-1.pth").exists()


@pytest.mark.parametrize("keep", [0, -1])
def test_a_run_keeps_at_least_its_newest_checkpoint(tmp_path, keep):
    with pytest.raises(ValueError, match=rf"keep={keep}: expected at least 1 checkpoint, or None for all"):
        CheckpointFolder(tmp_path, "run-state-", keep=keep)


@pytest.mark.parametrize("keep", [1, 2])
def test_what_was_just_saved_is_kept_beside_later_ones(tmp_path, keep):
    for step in (10, 15, 20):
        CheckpointFolder(tmp_path, "run-state-").save(step, {"step": step})
    folder = CheckpointFolder(tmp_path, "run-state-", keep=keep)
    folder.save(12, {"step": 12})
    assert load(folder.path(12)) == {"step": 12}
    assert {15, 20} <= set(folder.steps())


def test_partial_files_of_the_run_only_are_removed(tmp_path):
    folder = CheckpointFolder(tmp_path, "lr[1]*-state-")
    for name in (".lr[1]*-state-5.pth.77.partial", ".other-state-5.pth.77.partial"):
        (tmp_path / name).write_bytes(b"half")
    folder.save(3, {"step": 3})
    folder.remove_partial_files()
    assert names(tmp_path) == [".other-state-5.pth.77.partial", "lr[1]*-state-3.pth"]


def test_load_weights_lists_what_differs():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    weights = model.state_dict()
    other = {**weights, "0.weight": torch.zeros(4, 4), "2.bias": torch.zeros(5)}
    del other["1.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, other, "a.pth")
    assert str(caught.value).splitlines() == [
        "a.pth: the weights are not those of this Sequential:",
        "  0.weight: [4, 4] in the file, [2, 3] in the model",
        "  missing: 1.bias [1]",
        "  not in the model: 2.bias [5]",
        "Use the configuration that the weights were trained with",
    ]
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())


def test_load_weights_shows_a_dozen_differences():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(10)))
    with pytest.raises(CheckpointError, match=r"(?s)missing: 0\.bias.*\n  and 8 more\nUse"):
        load_weights(model, {}, "a.pth")


def test_load_weights_copies():
    model, weights = nn.Linear(2, 2), {"weight": torch.ones(2, 2), "bias": torch.tensor([3.0, 4.0])}
    load_weights(model, weights, "a.pth")
    assert torch.equal(model(torch.tensor([1.0, 2.0])), torch.tensor([6.0, 7.0]))


def test_config_differences():
    saved = {"seed": 1, "Net": {"K": 4, "size": [3, 35, 35]}, "gone": True, "same": {"a": None}}
    current = {"seed": 2, "Net": {"K": 7, "size": [3, 35, 35]}, "added": "x", "same": {"a": None}}
    assert config_differences(saved, current) == [
        "Net.K: 4 -> 7",
        "added: None -> 'x'",
        "gone: True -> None",
        "seed: 1 -> 2",
    ]
    assert config_differences(saved, saved) == []
    assert config_differences({"a": {"b": 1}}, {"a": 3}) == ["a: {'b': 1} -> 3"]
