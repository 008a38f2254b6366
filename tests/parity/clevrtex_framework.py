"""The strings and the command line of the ClevrTex framework against what the original made of them."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from clevrtex.framework.commandline import call
from clevrtex.framework.optim import Plateau, build_optimizer, parameter_groups, parse_rate
from clevrtex.framework.schedules import parse
from core.training.schedules import constant
from tests.parity.golden import Case, Check

STRIPPED_BY_THE_ORIGINAL = "set(test)"
"""Whose letters it takes for part of `set(`."""


def check_schedules(case: Case, tmp_path: Path) -> None:
    for entry in case.info["table"]:
        if "error" in entry:
            with pytest.raises(ValueError, match="schedule"):
                parse(entry["string"])
            continue
        schedule = parse(entry["string"])
        assert schedule.per_iteration == entry["per_iteration"], entry["string"]
        values = [schedule.value(step, total) for step, total in case.info["grid"]]
        if entry["string"] == STRIPPED_BY_THE_ORIGINAL:
            assert values == ["test"] * len(values)
        elif isinstance(values[0], float | int):
            np.testing.assert_allclose(values, entry["values"], rtol=1e-6, err_msg=entry["string"])
        else:
            theirs = [tuple(value) if isinstance(value, list) else value for value in entry["values"]]
            assert values == theirs, entry["string"]


def check_optimisers(case: Case, tmp_path: Path) -> None:
    rate = case.info["optimisers"][0]["lr_of_group"]
    for entry in case.info["optimisers"]:
        if "error" in entry:
            with pytest.raises(ValueError, match="--optim"):
                build_optimizer(nn.Linear(2, 2), entry["optim"], rate)
            continue
        optimizer = build_optimizer(nn.Linear(2, 2), entry["optim"], rate)
        (group,) = optimizer.param_groups
        assert type(optimizer).__name__ == entry["class"]
        assert group["lr"] == entry["lr_of_group"]
        ours = {key: list(value) if isinstance(value, tuple) else value for key, value in group.items()}
        assert {key: ours[key] for key in entry["defaults"] if key != "lr"} == {
            key: value for key, value in entry["defaults"].items() if key != "lr"
        }
    for number, entry in enumerate(case.info["schedules"]):
        check_rate(case, number, entry)
    check_groups(case.info["param_groups_example"]["groups"])


def check_rate(case: Case, number: int, entry: dict) -> None:
    text = entry["lr"]
    if text == "plateau":
        check_plateau(entry)
    elif entry.get("scheduler") is None:
        # The original trains without a schedule on text that it does not know.
        if text in (None, ""):
            assert parse_rate(text) is constant
        else:
            with pytest.raises(ValueError, match="--lr"):
                parse_rate(text)
    else:
        factors = [parse_rate(text)(step) for step in case.info["steps"]]
        np.testing.assert_allclose(factors, entry["factors"], rtol=1e-6)
        recorded = case.arrays.get(f"out/lr_factor_{number}")
        if recorded is not None:
            np.testing.assert_allclose(np.float32(factors), recorded, rtol=1e-6)


def check_plateau(entry: dict) -> None:
    example = entry["example"]
    given = {"learning_rate": example["base_lr"], "lowest": entry["min_lr"][0], "patience": entry["patience"]}
    original, mended, rates = Plateau(**given, threshold=entry["threshold"]), Plateau(**given), []
    for epoch, metric in enumerate(example["metric_per_epoch"]):
        original.update(metric)
        mended.update(metric)
        rates.append(example["base_lr"] * original(epoch))
    np.testing.assert_allclose(rates, example["lr_after_epoch"], rtol=1e-6)
    assert mended(0) == 1, "the metric falls in every epoch"


class GroupedModel(nn.Module):
    """The model that the case describes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(1, 1)

    def param_groups(self) -> list[dict]:
        return [
            {"params": self.a.parameters(), "lr": 0.1},
            {"params": self.b.parameters(), "lr": 3, "other": {"weight_decay": 0.5}},
        ]


def check_groups(groups: list[dict]) -> None:
    ours = parameter_groups(GroupedModel(), 2e-3)
    assert len(ours) == len(groups)
    for group, theirs in zip(ours, groups):
        np.testing.assert_allclose(group["lr"], theirs["lr"], rtol=1e-9)
        assert group.get("weight_decay", 0) == theirs["weight_decay"]
        assert [list(value.shape) for value in group["params"]] == theirs["shapes"]


def check_command_line(case: Case, tmp_path: Path) -> None:
    def run(tag="t", lr=0.1, slots=3, limit=None, gpus=None, drop_last_batch=False, gc=0):
        return [[tag, lr, slots], limit, gpus, drop_last_batch, gc]

    for entry in case.info["table"]:
        if "error" not in entry:
            assert call({"run": run}, entry["argv"]) == entry["result"]
        elif entry["error"] == "ValueError":
            with pytest.raises(ValueError, match="flag"):
                call({"run": run}, entry["argv"])
        else:
            with pytest.raises(SystemExit):
                call({"run": run}, entry["argv"])


CHECKS: dict[str, Check] = {
    "schedule grammar": check_schedules,
    "optimiser and learning-rate strings": check_optimisers,
    "command line behaviour": check_command_line,
}
