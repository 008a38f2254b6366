"""Checkpoint files, signs of collapse, optimisers and seeds of SlotFormer's training."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from core.metrics.segmentation import blocks
from core.nn.noise import ImageNoise, exponential
from core.training.checkpoint import load
from slotformer.framework import collapse, seeds
from slotformer.framework.checkpoints import EpochFiles
from slotformer.framework.optim import build_optimizer
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.framework.tasks import construct


def test_checkpoints_are_named_after_iterations_and_epochs(tmp_path):
    files = EpochFiles(tmp_path, steps_per_epoch=10, save_interval=0.25, keeps_epochs=True, keep=3)
    due = [step for step in range(20) if files.is_due(step)]
    assert due == [3, 7, 9, 13, 17, 19], "every ceil(0.25 * 10) + 1 iterations of an epoch, and its end"
    for step in due:
        if step == 7:
            files.note_best()
        files.save(step, {"step": step})
    assert {path.name for path in tmp_path.iterdir()} == {
        *("epoch", "best.pth", "model_14.pth", "model_18.pth", "model_20.pth")
    }
    assert {path.name for path in (tmp_path / "epoch").iterdir()} == {"model_1.pth", "model_2.pth"}
    assert load(tmp_path / "epoch" / "model_1.pth") == {"step": 9}
    assert load(tmp_path / "best.pth") == {"step": 7}
    assert (files.steps(), files.path(19).name) == ([13, 17, 19], "model_20.pth")
    (tmp_path / "epoch" / "model_2.pth").unlink()
    files.complete(18)
    assert not (tmp_path / "epoch" / "model_2.pth").exists(), "step 18 ends no epoch"
    files.complete(19)
    assert load(tmp_path / "epoch" / "model_2.pth") == {"step": 19}


def hard_masks(labels: torch.Tensor, slots: int) -> torch.Tensor:
    return nn.functional.one_hot(labels, slots).movedim(-1, -3).float()


def test_signs_of_collapse():
    generator = torch.Generator().manual_seed(0)
    one = hard_masks(torch.zeros(2, 3, 8, 8, dtype=torch.long), 4)
    even = torch.full((2, 3, 4, 8, 8), 0.25)
    places = hard_masks(blocks(2, 2, 8, 8).expand(2, 3, 8, 8), 4)
    good = hard_masks(torch.randint(0, 4, (2, 3, 8, 8), generator=generator), 4)
    found = {name: collapse.usage(masks) for name, masks in zip("1ep+", (one, even, places, good))}
    assert [float(found[name]["slots_used"]) for name in "1ep+"] == [1, 1, 4, 4]
    assert [float(found[name]["mask_entropy"]) for name in "1ep+"] == pytest.approx([0, 1, 0, 0])
    assert float(found["p"]["mask_repetition"]) == pytest.approx(1)
    assert abs(float(found["+"]["mask_repetition"])) < 0.3
    words = {name: collapse.complaints({key: float(value) for key, value in found[name].items()}) for name in "1ep+"}
    assert words["1"] == ["one slot takes nearly every pixel"]
    assert words["e"][-1] == "slots share every pixel evenly"
    assert words["p"] == ["slots stand for places: their masks are alike in all videos"]
    assert words["+"] == []
    assert "mask_repetition" not in collapse.usage(good[:1])


def test_masks_against_blocks():
    truth = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    truth[..., 1:3, 1:7] = 1
    truth[..., 5:7, 1:7] = 2
    scores = collapse.against_blocks(hard_masks(truth.long(), 4), truth)
    assert float(scores["fg_ari"]) == pytest.approx(1)
    assert float(scores["fg_ari_of_blocks"]) == pytest.approx(1), "two rows of blocks fit by chance"
    truth[..., 1:3, 5:7] = 3
    assert 0 < float(collapse.against_blocks(hard_masks(truth.long(), 4), truth)["fg_ari_of_blocks"]) < 0.9
    assert blocks(2, 3, 64, 64).unique().tolist() == list(range(6))


def test_optimisers():
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    group = {"params": [weight, bias], "lr": 0.1}
    assert type(build_optimizer(BaseParams(), [group])) is torch.optim.Adam
    decaying = build_optimizer(BaseParams({"weight_decay": 0.2}), [group])
    assert type(decaying) is torch.optim.AdamW
    assert [(len(part["params"]), part["weight_decay"], part["lr"]) for part in decaying.param_groups] == [
        (1, 0.2, 0.1),
        (1, 0.0, 0.1),
    ]
    assert decaying.param_groups[0]["params"][0] is weight
    sgd = build_optimizer(BaseParams({"optimizer": "SGD", "momentum": 0.7}), [group])
    assert (type(sgd), sgd.param_groups[0]["momentum"]) == (torch.optim.SGD, 0.7)
    assert type(build_optimizer(BaseParams({"optimizer": "RMSprop"}), [group])) is torch.optim.RMSprop
    with pytest.raises(ParamsError, match="'Adaam' is not one of adam, sgd, rmsprop; did you mean 'adam'"):
        build_optimizer(BaseParams({"optimizer": "Adaam"}), [group])


class Toy(nn.Module):
    def __init__(self, width: int, depth: int = 2, loss_w: float = 1.0, sizes: tuple[int, ...] = ()):
        super().__init__()
        self.given = (width, depth, loss_w, sizes)


def test_models_are_made_from_dicts_and_keys():
    params = BaseParams({"net_dict": {"width": 3, "path": "x"}, "loss_w": 0.5, "sizes": [1, 2], "other": 1})
    assert construct(Toy, params, ("net_dict", "no_dict"), ignored={"path"}, depth=4).given == (3, 4, 0.5, (1, 2))
    with pytest.raises(ParamsError, match="net_dict: Toy has no 'path'"):
        construct(Toy, params, ("net_dict",))
    with pytest.raises(ParamsError, match="Toy has no 'withd'; did you mean 'width'"):
        construct(Toy, BaseParams({"net_dict": {"withd": 3}}), ("net_dict",))
    with pytest.raises(ParamsError, match="Toy needs width: add it to the configuration"):
        construct(Toy, BaseParams(), ("net_dict",))


class DeepToy(Toy):
    def __init__(self, depth: int = 7, height: int = 1, **options: Any):
        super().__init__(depth=depth, **options)
        self.height = height


def test_options_that_a_model_hands_on_are_arguments_too():
    model = construct(DeepToy, BaseParams({"net_dict": {"width": 3, "height": 5}}), ("net_dict",))
    assert (model.height, model.given) == (5, (3, 7, 1.0, ()))
    with pytest.raises(ParamsError, match="DeepToy has no 'withd'; did you mean 'width'"):
        construct(DeepToy, BaseParams({"net_dict": {"withd": 3}}), ("net_dict",))
    with pytest.raises(ParamsError, match="DeepToy needs width"):
        construct(DeepToy, BaseParams({"net_dict": {"height": 3}}), ("net_dict",))


def test_noise_of_an_image_is_its_own_in_any_batch():
    device = torch.device("cpu")
    whole = ImageNoise(5, range(4)).at(0, device)("kernel", (4, 3, 2))
    parts = [ImageNoise(5, [index]).at(9, device)("kernel", (1, 3, 2)) for index in range(4)]
    assert torch.equal(whole, torch.cat(parts))
    rows = ImageNoise(5, [2, 3]).at(0, device, exponential)("words", (6, 100))
    assert torch.equal(rows[:3], ImageNoise(5, [2]).at(0, device, exponential)("words", (3, 100)))
    assert float(rows.mean()) == pytest.approx(1, abs=0.15)
    assert not torch.equal(whole[0], whole[1])


def test_table_of_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "CHECKPOINT", tmp_path)
    rows = {0: {"loss": 2.0, "best by loss": 1.5}, 3: {"loss": 1.0, "best by loss": 1.0}}
    lines = seeds.compare("savi", rows)
    assert lines[0].split() == ["seed", "0", "seed", "3", "mean", "std"]
    assert lines[2].split() == ["loss", "2", "1", "1.5", "0.7071"]
    assert lines[3] == f"best by loss: seed 3, {tmp_path / 'savi-seed3' / 'models' / 'best.pth'}"
    assert json.loads((tmp_path / "savi-seeds.json").read_text())["best"] == 3
    rows = {0: {"best by acc_0.50": 0.8}, 3: {"best by acc_0.50": 0.7}}
    assert seeds.compare("readout", rows)[-2].startswith("best by acc_0.50: seed 0")
    assert seeds.compare("savi", {}) == ["no run has finished"]


def test_the_seeds_flags_are_not_handed_on():
    words = ["train.py", "--seeds", "3", "--params", "x", "--name=y", "--seeds=2", "--name", "z", "--ddp"]
    assert seeds._without_seeds(words) == ["train.py", "--params", "x", "--ddp"]
