"""Checks of PHYRE's classifier of success: logits, loss, gradients, five steps, and behind SlotFormer as it plans."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slotformer.framework.params import BaseParams
from slotformer.phyre_planning import build_method, build_model
from slotformer.phyre_planning.method import SuccessMethod
from slotformer.phyre_planning.models.readout import PHYREReadout
from slotformer.phyre_planning.planner import original_sequence, planned_sequence
from slotformer.video_prediction.models.rollouter import SlotRollouter
from tests.parity.golden import Case, Check
from tests.parity.task_cases import check_gradients, check_trajectory, close, load_state


def params_of(case: Case) -> BaseParams:
    given: dict[str, Any] = case.info.get("loss_weights", {}) | {"readout_dict": case.info["kwargs"]["readout_dict"]}
    rate = case.info.get("schedule", {}).get("max_lr", 1e-3)
    return BaseParams({"model": "PHYREReadout", "lr": rate, "dropout": 0.0, **given})


def open_case(case: Case) -> tuple[PHYREReadout, SuccessMethod, dict[str, Tensor]]:
    """The model with its weights, how it is trained, and the batch."""
    params = params_of(case)
    model = build_model(params)
    if not model.enc_t_pe.requires_grad:
        torch.testing.assert_close(model.enc_t_pe.detach(), case["state/enc_t_pe"])
    batch = {"slots": model.select(case["in/slots"]), "label": case["in/label"]}
    return load_state(case, model), build_method(params), batch


def check_readout(case: Case, tmp_path: Path) -> None:
    model, method, batch = open_case(case)
    terms = model.loss(batch, 0)
    check_gradients(case, model, terms["loss"])
    ours = {**terms, "logits": model.answer(batch["slots"])}
    samples = {name: values.mean() for name, values in method.samples(model.eval(), batch).items()}
    ours |= {**samples, **terms, "logits_eval": model.answer(batch["slots"])}
    for name in case.tensors("out/"):
        close(case, name, ours[name])
    torch.testing.assert_close(samples["vqa_loss"], terms["vqa_loss"])


def check_readout_trajectory(case: Case, tmp_path: Path) -> None:
    model, method, batch = open_case(case)
    check_trajectory(case, tmp_path, model, method.param_groups(model), method.floor, batch)


def check_planning(case: Case, tmp_path: Path) -> None:
    given = case.info["kwargs"]["rollout_dict"]
    options = {key: value for key, value in given.items() if key not in ("history_len", "cond_len")}
    rollouter = SlotRollouter(**options, window_len=given["cond_len"], dropout=0.0)
    rollouter.load_state_dict(case.tensors("state/rollouter."))
    model = build_model(params_of(case))
    model.load_state_dict(case.tensors("state/success_cls."))
    first, last = case["in/slot0"], max(model.sel_slots)
    assert last == case.info["kwargs"]["rollout_len"]
    with torch.no_grad():
        later = rollouter(first, last)
        close(case, "pred_slots", later)
        for name, sequence in (("intended", planned_sequence), ("original", original_sequence)):
            logits = model.answer(model.select(sequence(first, later)))
            close(case, f"logits_{name}", logits)
            close(case, f"conf_{name}", logits.sigmoid())


CHECKS: dict[str, Check] = {
    "phyre-readout": check_readout,
    "phyre-readout-traj": check_readout_trajectory,
    "phyre-plan-forward": check_planning,
}
