"""PHYRE's classifier of success: what it looks at, the original's checkpoints and configurations, its data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.data.errors import DataError
from core.provenance import Provenance
from core.training.checkpoint import save
from slotformer import original
from slotformer.framework.params import BaseParams, load_params
from slotformer.phyre_planning import Keys, build_method, build_model
from slotformer.phyre_planning.data import RolloutSlots, build_dataset, open_slots
from slotformer.phyre_planning.models.readout import PHYREReadout
from tests.conftest import MadeOnce
from tests.planning_runs import CONFIG, labels_of, small_params, write_rollouts


def readout(sel_slots: tuple[int, ...] = (0, 3), lively: bool = True, **options: object) -> PHYREReadout:
    torch.manual_seed(0)
    model = PHYREReadout(6, d_model=8, num_layers=3, num_heads=2, ffn_dim=16, sel_slots=sel_slots, **options)
    if lively:
        for value in model.parameters():
            value.data += 0.3 * torch.randn(value.shape) * value.requires_grad
    return model.eval()


def frames(count: int = 2) -> Tensor:
    return torch.randn(3, count, 4, 6, generator=torch.Generator().manual_seed(1))


# The model


@pytest.mark.parametrize("norm_first", [True, False])
def test_it_is_pytorchs_encoder_with_its_token_first(norm_first: bool) -> None:
    model = readout(norm_first=norm_first)
    layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=norm_first, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    theirs.load_state_dict(model.transformer_encoder.state_dict())
    tokens = (model.in_proj(frames()) + model.enc_t_pe.unsqueeze(2)).flatten(1, 2)
    found = theirs(torch.cat([model.CLS.expand(3, -1, -1), tokens], dim=1))[:, 0]
    torch.testing.assert_close(model.answer(frames()), model.cls_mlp(found)[:, 0])


def test_slots_have_no_order_but_frames_have() -> None:
    model, slots = readout(), frames()
    torch.testing.assert_close(model.answer(slots[:, :, [2, 0, 3, 1]]), model.answer(slots))
    assert (model.answer(slots.flip(1)) - model.answer(slots)).abs().max() > 1e-3
    mixed = torch.stack([slots[:, 0], slots[:, 1, [1, 0, 2, 3]]], dim=1)
    torch.testing.assert_close(model.answer(mixed), model.answer(slots), msg="each frame by itself")


def test_frames_are_told_apart_by_their_places_in_sel_slots() -> None:
    video = frames(8)
    models = {chosen: readout(chosen) for chosen in ((0, 3), (0, 7), (3, 0))}
    assert torch.equal(models[0, 7].select(video), video[:, [0, 7]])
    assert torch.equal(models[3, 0].select(video), video[:, [3, 0]])
    assert len({float(model.answer(frames())[0].detach()) for model in models.values()}) == 1


def test_codes_count_down_to_the_last_frame() -> None:
    codes = readout((0, 3, 5), t_pe="sin").enc_t_pe
    assert not codes.requires_grad
    rates = 10000 ** (-2 * torch.arange(4) / 8)
    expected = torch.stack([torch.cat([(p * rates).sin(), (p * rates).cos()]) for p in (2, 1, 0)])
    torch.testing.assert_close(codes[0].detach(), expected)
    learned = readout(t_pe="learnable", lively=False).enc_t_pe
    assert learned.requires_grad
    assert not learned.any()


def test_it_begins_with_equal_layers_and_an_empty_token() -> None:
    model = readout(lively=False)
    first, *others = (layer.state_dict() for layer in model.transformer_encoder.layers)
    assert all(torch.equal(layer[key], first[key]) for layer in others for key in first)
    assert not model.CLS.any()


def test_all_weights_learn_and_dropout_acts_in_training_alone() -> None:
    model = readout(dropout=0.5)
    batch = {"slots": frames(), "label": torch.tensor([1, 0, 1])}
    assert torch.equal(model.loss(batch, 0)["loss"], model.loss(batch, 0)["loss"])
    model.train()
    assert not torch.equal(model.loss(batch, 0)["loss"], model.loss(batch, 0)["loss"])
    terms = model.loss(batch, 0)
    terms["loss"].backward()
    without = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    assert without == {"enc_t_pe"}
    assert terms.keys() == {"loss", "vqa_loss"}


def test_the_loss_is_the_cross_entropy_of_the_label() -> None:
    model, label = readout(vqa_loss_w=0.5), torch.tensor([1, 0, 1])
    terms = model.loss({"slots": frames(), "label": label}, 0)
    chance = model.answer(frames()).sigmoid()
    expected = -torch.where(label == 1, chance, 1 - chance).log().mean()
    torch.testing.assert_close(terms["vqa_loss"], expected)
    torch.testing.assert_close(terms["loss"], 0.5 * expected)


def test_answers_stay_float32_under_autocast() -> None:
    model = readout(dropout=0.0).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.answer(frames())
        model.loss({"slots": frames(), "label": torch.tensor([1, 0, 1])}, 0)["loss"].backward()
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, readout().answer(frames()), rtol=0.1, atol=0.1)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="t_pe 'none' is not one of sin, learnable"):
        readout(t_pe="none")
    for frame_numbers in ((), (0, -1)):
        with pytest.raises(ValueError, match=r"sel_slots=.*: expected numbers of frames, from 0"):
            readout(frame_numbers)


# What is validated


def test_answers_are_counted_at_every_threshold() -> None:
    params = BaseParams({"model": "PHYREReadout", "lr": 2e-3})
    method, model = build_method(params), readout()
    logits = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])  # 0.05, 0.27, 0.5, 0.73, 0.95
    model.answer = lambda slots: logits
    found = method.samples(model, {"slots": frames(), "label": torch.tensor([0, 1, 1, 0, 1])})
    assert found["acc_0.10"].tolist() == [1, 1, 1, 0, 1]
    assert found["acc_0.50"].tolist() == [1, 0, 0, 0, 1], "0.5 is not above 0.5"
    assert found["acc_0.70"].tolist() == [1, 0, 0, 0, 1]
    assert found["acc_0.90"].tolist() == [1, 0, 0, 1, 1]
    assert found["vqa_loss"][2] == pytest.approx(np.log(2))
    assert set(found) == {"vqa_loss", *(f"acc_0.{tenth}0" for tenth in (1, 3, 5, 7, 9))}
    (group,) = method.param_groups(model)
    assert group["lr"] == 2e-3
    assert sum(value.numel() for value in group["params"]) == sum(
        value.numel() for name, value in model.named_parameters() if name != "enc_t_pe"
    )


# The original's files


def test_checkpoints_of_the_original_are_read(tmp_path: Path) -> None:
    model = readout()
    theirs = {f"module.{key}": value for key, value in model.state_dict().items()}
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    model.loss({"slots": frames(), "label": torch.tensor([1, 0, 1])}, 0)["loss"].backward()
    optimizer.step()
    checkpoint = {"state_dict": theirs, "opt_state_dict": optimizer.state_dict(), "it": 1, "epoch": 0}
    save(tmp_path / "model_1.pth", checkpoint)
    other = readout(lively=False)
    other.load_state_dict(original.read_weights(tmp_path / "model_1.pth", other))
    assert all(torch.equal(value, theirs[f"module.{key}"]) for key, value in other.state_dict().items())
    state = original.training_state(checkpoint, other, tmp_path / "model_1.pth")
    assert state["step"] == 0
    assert len(state["optimizer"]["state"]) == len(trained)
    assert original.export_state(model).keys() == model.state_dict().keys()


def test_the_published_size() -> None:
    params = load_params(CONFIG, Keys)
    state = build_model(params).state_dict()
    assert sum(value.numel() for value in state.values()) == 826_625
    assert (state["enc_t_pe"].shape, state["CLS"].shape) == ((1, 2, 128), (1, 1, 128))
    assert state["transformer_encoder.layers.3.linear1.weight"].shape == (512, 128)


def test_configurations_of_the_original_are_read(tmp_path: Path) -> None:
    text = CONFIG.read_text().replace("slotformer.framework.params", "nerv.training")
    assert "nerv" in text
    (tmp_path / "theirs.py").write_text(text)
    theirs, ours = (load_params(path, Keys).to_dict() for path in (tmp_path / "theirs.py", CONFIG))
    assert theirs == ours


# Data


@pytest.fixture(scope="module")
def rollouts(made_once: MadeOnce) -> Path:
    """Of all trials of the small set."""
    return made_once("planning-rollouts", lambda folder: write_rollouts(folder))


def opened(rollouts: Path, *settings: str) -> tuple[RolloutSlots, RolloutSlots]:
    return build_dataset(small_params(f"slot_root={rollouts}/{{}}_slots", *settings))


def test_rollouts_have_the_labels_of_their_trials(rollouts: Path) -> None:
    for split, source in zip(("train", "val"), opened(rollouts, "readout_dict.sel_slots=[3,0]")):
        labels = labels_of(split)
        assert len(source) == len(labels) > 0
        rows = np.arange(len(source))[::-1].copy()
        batch = source.read(rows)
        assert batch["slots"].shape == (len(source), 2, 3, 16)
        assert batch["label"].tolist() == labels[::-1]
        assert (batch["slots"][:, 1, :, 0] > 0).float().mean(dim=1).tolist() == labels[::-1], "the first frame tells"
        whole = np.stack([np.load(source.slots.file(int(row))) for row in rows])
        np.testing.assert_array_equal(batch["slots"], whole[:, [3, 0]])


def test_links_beside_the_weight_are_found(rollouts: Path, tmp_path: Path) -> None:
    params = small_params(f"slot_root={tmp_path}/run/{{}}_slots")
    with pytest.raises(DataError, match=r"val_slots: no such folder, nor one of that name in models/"):
        open_slots(params, "val")
    (tmp_path / "run" / "models").mkdir(parents=True)
    (tmp_path / "run" / "models" / "val_slots").symlink_to(rollouts / "val_slots")
    assert len(open_slots(params, "val")) == len(labels_of("val"))


def test_rollouts_of_other_trials_are_refused(rollouts: Path, tmp_path: Path) -> None:
    shutil.copytree(rollouts, tmp_path / "made")
    config = small_params().to_dict()
    for split in ("train", "val"):
        Provenance({"config": config | {"phyre_fold": 3, "num_actions": 9}}).claim(tmp_path / split)
        shutil.copyfile(tmp_path / split / "provenance.json", tmp_path / "made" / f"{split}_slots" / "provenance.json")
    message = (
        r"roll-outs of other trials: phyre_fold 3, num_actions 9; the configuration says phyre_fold 0, num_actions 8"
    )
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "made")
