"""What a training of dynamics takes over from the base models, and how its loss changes."""

from pathlib import Path

import pytest
import torch

from core.training.checkpoint import CheckpointError, load, save
from slotformer import base_slots, original
from slotformer.framework.params import ParamsError, load_params, parse_overrides
from slotformer.video_prediction import build_method, build_model
from tests.dynamics_runs import BASES, small_params, write_base
from tests.slotformer_runs import CONFIGS, SMALL

OBJ3D, PHYSION = "slotformer_obj3d_params", "slotformer_physion_params"


def initialised(config: str, *settings: str) -> torch.nn.Module:
    params = small_params(config, *settings)
    model = build_model(params)
    build_method(params).initialise(model)
    return model


@pytest.mark.parametrize("config", [OBJ3D, PHYSION])
@pytest.mark.parametrize("kind", ["ours", "original", "original, bare"])
def test_frozen_parts_come_from_either_kind_of_checkpoint(tmp_path: Path, config: str, kind: str) -> None:
    settings = write_base(config, tmp_path)
    overrides = parse_overrides([*SMALL[BASES[config]], "slot_size=16", "slot_dict.num_slots=3"])
    base = base_slots.build_model(load_params(CONFIGS / f"{BASES[config]}.py", base_slots.Keys, overrides))
    base.load_state_dict(load(tmp_path / "base.pth")["model"])
    if kind != "ours":
        state = original.export_state(base)
        save(tmp_path / "base.pth", state if "bare" in kind else {"state_dict": state, "it": 1, "epoch": 1})
    model = initialised(config, *settings)
    parts = {"decoder": "decoder", "decoder_pos_embedding": "decoder_pos_embedding"}
    if config == PHYSION:
        parts = {"decoder": "trans_decoder", "dvae": "dvae"}
    for part, theirs in parts.items():
        expected = base.get_submodule(theirs).state_dict()
        for name, value in model.get_submodule(part).state_dict().items():
            assert torch.equal(value, expected[name]), f"{part}.{name}"


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    settings = write_base(OBJ3D, tmp_path)
    with pytest.raises(CheckpointError, match=r"base\.pth: the weights are not those of this BroadcastDecoder"):
        initialised(OBJ3D, *settings, "dec_dict.dec_channels=(16,4,4,4,4)")
    with pytest.raises(ParamsError, match=r"dec_dict\.dec_ckp_path: .*/none\.pth: no such file. Train StoSAVi first"):
        initialised(OBJ3D, f"dec_dict.dec_ckp_path={tmp_path}/none.pth")
    steve = write_base(PHYSION, tmp_path)
    with pytest.raises(ParamsError, match=r"dvae_dict\.dvae_ckp_path: .*/none\.pth: no such file. Train dVAE first"):
        initialised(PHYSION, steve[0], f"dvae_dict.dvae_ckp_path={tmp_path}/none.pth")
    with pytest.raises(CheckpointError, match=r"dvae\.pth: the weights are not those of this TokenDecoder"):
        initialised(PHYSION, steve[1], f"dec_dict.dec_ckp_path={tmp_path}/dvae.pth")


def test_later_frames_count_more_and_more() -> None:
    params = small_params(OBJ3D, "use_loss_decay=True", "loss_decay_pct=0.5")
    model, method = build_model(params), build_method(params)
    optimizer = torch.optim.Adam(method.param_groups(model))
    found = []
    for step in range(0, 100, 25):
        method.before_step(model, step, 100)
        found.append(method.scalars(model, optimizer)["loss_decay_factor"])
    assert found == pytest.approx([0.01, 0.505, 1.0, 1.0])
    assert optimizer.param_groups[0]["lr"] == params.lr
    assert method.floor == 0.01
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert len(optimizer.param_groups[0]["params"]) == len(trained)
    plain = small_params(OBJ3D)
    build_method(plain).before_step(model, 0, 100)
    assert model.loss_decay_factor == 1.0
    assert build_method(plain).scalars(model, optimizer) == {}


def test_a_decay_that_has_no_effect_is_refused() -> None:
    with pytest.raises(ParamsError, match="use_loss_decay is True, expected False"):
        build_method(small_params(PHYSION, "use_loss_decay=True"))


@pytest.mark.parametrize(("config", "fps"), [(OBJ3D, 8), ("slotformer_phyre_params-fold0", 4), (PHYSION, 8)])
def test_frames_per_second_of_videos(config: str, fps: int) -> None:
    assert build_method(small_params(config)).fps == fps
