"""Scores of a validation, and which of them makes a checkpoint the best."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from slotformer.framework.checkpoints import EpochFiles
from slotformer.framework.validation import Validator

CPU = torch.device("cpu")


class Numbers:
    """Sample i is the number i."""

    def __len__(self) -> int:
        return 7

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        return {"number": torch.from_numpy(np.asarray(indices)).double()}


class MeanLoss(nn.Module):
    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return {"loss": batch["number"].mean()}


class PlainMethod:
    floor, fps = 0.01, 8

    def initialise(self, model: nn.Module) -> None: ...

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        return []

    def before_step(self, model: nn.Module, step: int, num_steps: int) -> None: ...

    def scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        return {}

    def videos(self, model: nn.Module) -> dict[str, Tensor]:
        return {}


class CountingMethod(PlainMethod):
    """Even numbers are right answers, `accuracy` grows with `bonus`; numbers above 4 have a score of their own."""

    best_by = "accuracy"
    bonus = 0.0

    def samples(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        numbers = batch["number"]
        accuracy = (numbers % 2 == 0).double() + self.bonus
        return {"accuracy": accuracy, "large": numbers[numbers > 4], "none": numbers[numbers > 10]}


def validator(method: PlainMethod, folder: Path) -> Validator:
    return Validator(
        model=MeanLoss(),
        method=method,
        source=Numbers(),
        batch_size=3,
        accelerator=Accelerator(cpu=True),
        steps_per_epoch=2,
        num_epochs=5,
        every=1,
        seed=0,
        checkpoints=EpochFiles(folder, 2),
    )


def test_terms_of_the_loss_are_means_over_samples(tmp_path):
    assert validator(PlainMethod(), tmp_path).score() == {"loss": pytest.approx(3.0)}
    assert validator(PlainMethod(), tmp_path).score(num_batches=1) == {"loss": pytest.approx(1.0)}


def test_scores_are_means_over_the_samples_that_have_them(tmp_path):
    scores = validator(CountingMethod(), tmp_path).score()
    assert scores == {"accuracy": pytest.approx(4 / 7), "large": pytest.approx(5.5)}


class Watched(Validator):
    """Notes which samples are looked at for signs of collapse."""

    def _signs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.seen.append(int(batch["number"][0]))
        return {}


@pytest.mark.parametrize(("place", "count", "expected"), [(0, 1, [0, 1, 2, 3]), (0, 2, [0, 2]), (1, 2, [1, 3])])
def test_any_number_of_processes_looks_at_the_same_batches(tmp_path, place, count, expected):
    made = Watched(**vars(validator(PlainMethod(), tmp_path)))
    made.batch_size, made.seen, made.model.decompose = 1, [], None
    made.accelerator = SimpleNamespace(
        process_index=place, num_processes=count, is_main_process=True, device=CPU, autocast=nullcontext
    )
    made.score()
    assert made.seen == expected


def test_nothing_is_drawn_where_no_samples_are_to_be_shown(tmp_path):
    drawn = []

    class DrawingMethod(PlainMethod):
        def videos(self, model: nn.Module) -> dict[str, Tensor]:
            drawn.append(model)
            return {}

    made = validator(DrawingMethod(), tmp_path)
    made.draws = False
    made.draw(0)
    assert not drawn


def test_the_highest_score_is_the_best(tmp_path):
    method = CountingMethod()
    made = validator(method, tmp_path)
    best_epochs = []
    for epoch, bonus in enumerate((0.1, 0.3, 0.2, 0.4), start=1):
        method.bonus = bonus
        made.validate(2 * epoch - 1, epoch)
        best_epochs.append(made.state["best_epoch"])
        made.checkpoints.save(2 * epoch - 1, {"epoch": epoch})
    assert best_epochs == [1, 2, 2, 4]
    assert made.state["best_by"] == "accuracy"
    assert made.state["best"] == pytest.approx(4 / 7 + 0.4)
    assert torch.load(tmp_path / "best.pth", weights_only=True)["epoch"] == 4
