"""Configurations as Python files: what they may say, what the command line changes, what is refused."""

from copy import copy, deepcopy
from pathlib import Path

import pytest

from slotformer.base_slots import Keys
from slotformer.framework.params import BaseParams, ParamsError, file_of, load_params, parse_overrides
from tests.slotformer_runs import CONFIGS

ORIGINAL = """
from nerv.training import BaseParams

class SlotFormerParams(BaseParams):
    gpus = 4
    slot_size = 128
    slot_dict = dict(num_slots=6, slot_size=slot_size)
    train_batch_size = 64 // gpus
    val_batch_size = train_batch_size * 2
"""


def write(folder: Path, text: str, name: str = "some_params.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_files_of_the_original_are_read(tmp_path):
    params = load_params(write(tmp_path, ORIGINAL), Keys)
    assert isinstance(params, BaseParams)
    assert (params.train_batch_size, params.val_batch_size, params.max_epochs) == (16, 32, 100)
    assert params.slot_dict == {"num_slots": 6, "slot_size": 128}
    assert params.get("absent", 3) == 3
    assert "gpus" in params
    assert "absent" not in params
    with pytest.raises(ParamsError, match="no key 'video_len', which is needed: add it, or give --set video_len=VALUE"):
        params.video_len  # noqa: B018
    assert copy(params).to_dict() == deepcopy(params).to_dict() == params.to_dict()


def test_what_follows_from_an_override_follows_it(tmp_path):
    overrides = parse_overrides(
        ["gpus=2", "slot_size=32", "slot_dict.num_slots=9", "weight_decay=0.1", "dataset=obj3d"]
    )
    params = load_params(write(tmp_path, ORIGINAL), Keys, overrides)
    assert (params.train_batch_size, params.val_batch_size) == (32, 64)
    assert params.slot_dict == {"num_slots": 9, "slot_size": 32}
    assert (params.weight_decay, params.dataset) == (0.1, "obj3d")
    assert load_params(tmp_path / "some_params", Keys).gpus == 4, "the next file is read as it is"


def test_values_of_overrides():
    words = ["lr=2e-4", "resolution=(64,64)", "model=STEVE", "filter_enter=True", "x.y.z=[1,2]"]
    values = {"lr": 2e-4, "resolution": (64, 64), "model": "STEVE", "filter_enter": True, "x": {"y": {"z": [1, 2]}}}
    assert parse_overrides(words) == values
    with pytest.raises(ParamsError, match="expected KEY=VALUE"):
        parse_overrides(["lr"])
    with pytest.raises(ParamsError, match="x is given a value of its own"):
        parse_overrides(["x=1", "x.y=2"])


def test_values_that_vary_by_epoch(tmp_path):
    text = ORIGINAL + "    kld_loss_w_all = [1.0, 0.5, 0.1]\n    kld_loss_w_t = [3, 5]\n"
    params = load_params(write(tmp_path, text), Keys)
    assert params.kld_loss_w == 1.0
    assert [params.at_epoch(epoch)["kld_loss_w"] for epoch in range(7)] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.1, 0.1]
    with pytest.raises(ParamsError, match=r"kld_loss_w_all holds 3 values and kld_loss_w_t \[3\]"):
        load_params(write(tmp_path, text.replace("[3, 5]", "[3]")), Keys)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_epoch = 3", r"no key 'max_epoch'; did you mean 'max_epochs'\? \(a variable of your own .*_max_epoch\)"),
        ("max_epochs = 2.5", "max_epochs is 2.5, a float; expected int"),
        ("resolution = (64,)", r"resolution is \(64,\), a tuple; expected tuple\[int, int\]"),
        ("filter_enter = 1", "filter_enter is 1, a int; expected bool"),
        ("eval_interval = 0", "eval_interval is 0, expected at least 1"),
        ("print_iter = 0", "print_iter is 0, expected at least 1"),
        ("train_batch_size = 0", "train_batch_size is 0, expected at least 1"),
        ("val_batch_size = 0", "val_batch_size is 0, expected at least 1"),
        ("n_samples = -1", "n_samples is -1, expected at least 0"),
        ("dropout = 1.5", "dropout is 1.5, expected at least 0 and less than 1"),
        ("lr = undefined", "cannot be run \\(NameError: name 'undefined' is not defined"),
    ],
)
def test_bad_files_are_refused(tmp_path, line, message):
    with pytest.raises(ParamsError, match=f"some_params.py: {message}"):
        load_params(write(tmp_path, ORIGINAL + f"    {line}\n"), Keys)


def test_files_that_are_none(tmp_path):
    write(tmp_path, "x = 1")
    with pytest.raises(ParamsError, match=r"expected a class SlotFormerParams\(BaseParams\)"):
        load_params(tmp_path / "some_params.py", Keys)
    with pytest.raises(ParamsError, match=r"some_param: no such file; did you mean 'some_params.py'"):
        file_of(tmp_path / "some_param")


def test_private_names_and_methods_are_no_keys(tmp_path):
    params = load_params(write(tmp_path, ORIGINAL + "    _mine = 3\n    def helper(self): pass\n"), Keys)
    assert {"_mine", "helper"} & params.to_dict().keys() == set()
    assert BaseParams(params.to_dict()).to_dict() == params.to_dict()


PUBLISHED = {
    "savi_obj3d_params": (40, 1e-4, 16, 32, "StoSAVi", (64, 64)),
    "savi_phyre_params-fold0": (30, 1e-4, 16, 24, "StoSAVi", (128, 128)),
    "stosavi_clevrer_params": (12, 1e-4, 16, 32, "StoSAVi", (64, 64)),
    "dvae_physion_params": (20, 1e-3, 32, 64, "dVAE", (128, 128)),
    "steve_physion_params": (10, 1e-4, 12, 24, "STEVE", (128, 128)),
}


def test_published_configurations():
    assert {path.stem for path in CONFIGS.glob("*.py")} == PUBLISHED.keys()
    for name, expected in PUBLISHED.items():
        params = load_params(CONFIGS / name, Keys)
        found = (params.max_epochs, params.lr, params.train_batch_size, params.val_batch_size, params.model)
        assert (*found, params.resolution) == expected
        assert params.project == "SlotFormer"
