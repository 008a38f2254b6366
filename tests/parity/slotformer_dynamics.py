"""Checks of SlotFormer's models of dynamics: their transformer, losses, roll-outs, pictures, and five steps of each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slotformer import original
from slotformer.framework.params import BaseParams
from slotformer.video_prediction import build_method
from slotformer.video_prediction.models import MODELS, NO_ARGUMENTS
from slotformer.video_prediction.models.rollouter import SlotRollouter, sinusoidal_codes
from slotformer.video_prediction.models.slotformer import SlotFormer
from slotformer.video_prediction.models.steve_slotformer import STEVESlotFormer
from tests.parity.clevrtex_models import in_order
from tests.parity.golden import Case, Check
from tests.parity.slotformer_savi import check_gradients, check_steps, close, gradients_of


def check_rollouters(case: Case, tmp_path: Path) -> None:
    gradients: dict[str, Tensor | None] = {}
    for name, config in case.info["config"].items():
        options = {key: value for key, value in config.items() if key not in ("cls", "history_len", "cond_len")}
        assert config["cls"] in ("SlotRollouter", "SingleStepSlotRollouter")
        seen = config["history_len"]
        rollouter = SlotRollouter(**options, window_len=config.get("cond_len", seen), dropout=0.0)
        state = case.tensors(f"state/{name}.")
        assert {key: value.shape for key, value in rollouter.state_dict().items()} == {
            key: value.shape for key, value in state.items()
        }
        for key in ("enc_t_pe", "enc_slots_pe"):
            parameter = getattr(rollouter, key)
            if parameter is not None and not parameter.requires_grad:
                torch.testing.assert_close(parameter.detach(), state[key])
        rollouter.load_state_dict(state)
        past = case["in/x"][:, -seen:].clone().requires_grad_()
        predicted = rollouter(past, case["in/weight"].shape[1])
        (predicted * case["in/weight"]).sum().backward()
        close(case, f"{name}/y", predicted)
        close(case, f"{name}/grad_x", past.grad)
        gradients |= gradients_of(rollouter, f"{name}.")
    check_gradients(case, gradients)
    codes = case["out/sin_pos_enc"]
    close(case, "sin_pos_enc", sinusoidal_codes(*codes.shape[1:]))


def build(case: Case) -> nn.Module:
    """The model of a case, with its weights; a case of training steps may lack those of the frozen parts."""
    name = case.info["class"].split()[0].rpartition(".")[2]
    arguments: dict[str, Any] = {"dropout": 0.0, **case.info["loss_weights"]}
    for key, value in case.info["config"].items():
        arguments |= value if isinstance(value, dict) else {key: value}
    assert arguments.pop("clip_len") == arguments["history_len"]
    model = MODELS[name](
        **{
            key: tuple(value) if isinstance(value, list) else value
            for key, value in arguments.items()
            if key not in NO_ARGUMENTS
        }
    )
    theirs = case.tensors("state/")
    complete = any(key.startswith("decoder.") for key in theirs)
    ours = original.export_state(model)
    if not complete:
        assert all(key.startswith(("decoder", "dvae.")) for key in ours.keys() - theirs.keys())
        theirs = ours | theirs
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    model.load_state_dict(original.import_state(model, theirs))
    for key, value in original.export_state(model).items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=1e-6, msg=lambda text, k=key: f"{k}: {text}")
    if "frozen_parameters" in case.info:
        frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
        assert frozen == {name for name in case.info["frozen_parameters"] if not name.endswith(".self_attn_mask")}
    return model


def batch_of(case: Case, *names: str) -> dict[str, Tensor]:
    """The recorded inputs of these names (default: all that there are) as a batch."""
    names = names or tuple(name for name in ("slots", "img", "vid_len") if f"in/{name}" in case)
    batch = {name: case[f"in/{name}"] for name in names}
    if "img" in batch:
        batch["video"] = batch.pop("img") / 2 + 0.5
    return batch


def trained_gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


def check_all(case: Case, ours: dict[str, Tensor]) -> None:
    """Every recorded output."""
    for name in case.tensors("out/"):
        close(case, name, ours[name])


def decayed(model: SlotFormer, case: Case, name: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms with the loss-decay factor that the name of an output says."""
    model.loss_decay_factor = float(name.partition("decay")[2].partition("_")[0])
    terms = model.loss(batch, 0)
    model.loss_decay_factor = 1.0
    return terms


def check_slotformer(case: Case, tmp_path: Path) -> None:
    model, batch = build(case), batch_of(case, "slots", "img")
    seen, predicted = model.history_len, model.rollout_len
    past = batch["slots"][:, :seen]
    future = model.rollout(past, predicted)
    pictures = model.decode(future)
    ours = {
        "pred_slots": future,
        "recon_combined": pictures.recon,
        "recons_b0_last2": pictures.rgb[0, -2:],
        "masks_b0_last2": pictures.masks[0, -2:, :, None],
        **model.loss(batch, 0),
    }
    check_gradients(case, trained_gradients(model, ours["loss"]))
    if case.tensors("gradslot/"):
        check_gradients(case, trained_gradients(model, model.loss(batch, 0)["slot_recon_loss"]), "gradslot/")
    for name in case.tensors("out/"):
        if "_decay" in name:
            given = batch | ({"vid_len": case["in/vid_len"]} if name.endswith("_trunc") else {})
            ours[name] = decayed(model, case, name, given)[name.partition("_decay")[0]]
    model.eval()
    model.loss_decay_factor = 0.1  # of no effect in evaluation
    ours |= {f"eval_{name}": value for name, value in model.loss(batch, 0).items()}
    frames = case["out/rollout_slots"].shape[1]
    later = torch.zeros_like(case["out/rollout_slots"][:, seen:])
    with torch.no_grad():
        found = model.decompose({"slots": torch.cat([past, later], dim=1)}).validate()
    assert found.recon.shape[1] == frames
    ours["rollout_slots"] = found.slots
    ours["rollout_recon_last"] = model.decode(found.slots[:, -1:]).recon[:, 0]
    check_all(case, ours)


def check_single_step(case: Case, tmp_path: Path) -> None:
    model, batch = build(case), batch_of(case, "slots", "vid_len")
    ours = {
        "pred_slots": model.rollout(batch["slots"][:, : model.history_len], model.rollout_len),
        **model.loss(batch, 0),
    }
    check_gradients(case, trained_gradients(model, ours["loss"]))
    for name in case.tensors("out/"):
        if "_decay" in name:
            ours[name] = decayed(model, case, name, batch)["slot_recon_loss"]
    ours["slot_recon_loss_no_vid_len"] = model.loss(batch_of(case, "slots"), 0)["slot_recon_loss"]
    model.eval()
    first = {"slots": batch["slots"][:1], "video": case["in/img_b0"] / 2 + 0.5}
    ours |= {f"eval_b0_{name}": value for name, value in model.loss(first, 0).items()}
    ours["eval_recon_combined_b0"] = model.decode(
        model.rollout(first["slots"][:, : model.history_len], model.rollout_len)
    ).recon
    check_all(case, ours)


def check_steve_slotformer(case: Case, tmp_path: Path) -> None:
    model, batch = build(case), batch_of(case, "slots", "img")
    future = model.rollout(batch["slots"][:, : model.history_len], model.rollout_len)
    tokens = model.target_tokens(batch)
    words = model.dvae.word_logits(model.dvae.features(case["in/img"][:, model.history_len :])).topk(2).values
    ours = {
        "pred_slots": future,
        "target_token_id": tokens,
        "pred_token_id": model.decoder(future.flatten(0, 1), tokens[:, :-1]),
        "token_margin_min": (words[:, 0] - words[:, 1]).min(),
        **model.loss(batch, 0),
    }
    check_gradients(case, trained_gradients(model, ours["loss"]))
    if case.tensors("gradslot/"):
        check_gradients(case, trained_gradients(model, model.loss(batch, 0)["slot_recon_loss"]), "gradslot/")
    model.eval()
    slots = batch["slots"][:, 0]
    draws = case["in/exp_noise"].flatten(2).transpose(1, 2)
    found = model.decode(slots, in_order([draws]))
    best = model.decoder.generate(slots, with_logits=True).logits.topk(2).values
    ours |= {"decode_tokens": found.tokens, "decode_soft": found.soft, "decode_hard": found.hard}
    ours["decode_margin_min"] = (best[..., 0] - best[..., 1]).min()
    check_all(case, ours)


def check_trajectory(case: Case, tmp_path: Path) -> None:
    model, given = build(case), case.info["params"]
    keys = ("lr", "use_loss_decay", "loss_decay_pct")
    name = type(model).__name__
    params = BaseParams({key: given[key] for key in keys if key in given} | {"model": name, "dataset": ""})
    method = build_method(params)
    groups = method.param_groups(model)
    assert [len(group["params"]) for group in groups] == case.info["optimizer"]["group_sizes_trainable"]
    total = case.info["schedule"]["total_steps"]

    def before_step(index: int) -> None:
        method.before_step(model, index, total)
        if "out/schedule_per_step" in case:
            np.testing.assert_allclose(model.loss_decay_factor, case["out/schedule_per_step"][index], rtol=1e-6)

    check_steps(case, tmp_path, model, groups, batch_of(case), method.floor, before_step)


def by_model(check: Callable[[Case, Path], None], *names: str) -> dict[str, Check]:
    return {f"slotformer.video_prediction.models.{name}": check for name in names}


CHECKS: dict[str, Check] = {
    "rollouters": check_rollouters,
    "slotformer.video_prediction.models.*Rollouter": check_rollouters,
    **by_model(check_slotformer, SlotFormer.__name__),
    **by_model(check_single_step, "SingleStepSlotFormer"),
    **by_model(check_steve_slotformer, STEVESlotFormer.__name__),
    **{f"{name} + ": check_trajectory for name in MODELS},
}
