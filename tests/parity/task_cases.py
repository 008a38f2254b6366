"""What the checks of models of SlotFormer's tasks have in common: their limits, gradients, and steps of training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.training.schedules import cosine_with_restarts
from slotformer import original
from tests.parity.golden import Case
from tests.parity.steps import trainer_by_hand


def limits(case: Case, of: str) -> dict[str, float]:
    """The tolerance of a kind of numbers, such as "rtol 1e-4, atol 1e-5"."""
    given = (part.split() for part in case.info["tolerance"][of].split(","))
    return {"rtol": 0.0, "atol": 0.0} | {name: float(value) for name, value in given}


def close(case: Case, name: str, ours: Tensor) -> None:
    """The recorded output `name`."""
    theirs = case[f"out/{name}"]
    given = limits(case, "forward")
    torch.testing.assert_close(ours.detach().to(theirs.dtype), theirs, **given, msg=lambda text: f"{name}: {text}")


def load_state(case: Case, model: nn.Module) -> nn.Module:
    """`model` with the weights of a case; all that the original stores is what an export of ours gives."""
    theirs = case.tensors("state/")
    model.load_state_dict(original.import_state(model, theirs))
    ours = original.export_state(model)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key].to(value.dtype)), key
        assert value.dtype == theirs[key].dtype, key
    return model


def check_gradients(case: Case, model: nn.Module, loss: Tensor) -> None:
    """Norms of the gradients of all parameters that the original trains."""
    model.zero_grad()
    loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    norms = case.tensors("grad/")
    assert norms
    assert gradients.keys() <= norms.keys()
    for key, norm in norms.items():
        ours = gradients[key].norm() if key in gradients else torch.zeros(())
        torch.testing.assert_close(ours, norm, **limits(case, "grad"), msg=lambda text, k=key: f"{k}: {text}")


def check_trajectory(
    case: Case,
    tmp_path: Path,
    model: nn.Module,
    groups: list[dict[str, Any]],
    floor: float,
    batch: dict[str, Tensor],
) -> None:
    """Steps of the training loop on one batch: terms, rates, norms of the final weights."""
    schedule, adam, losses = case.info["schedule"], case.info["optimizer"], case["out/loss_per_step"]
    assert (adam["type"], adam["clip_grad"]) == ("Adam", "none")
    assert {group["lr"] for group in groups} == {schedule["max_lr"]}
    np.testing.assert_allclose(floor * schedule["max_lr"], schedule["min_lr"])
    trainer = trainer_by_hand(
        model.train(),
        torch.optim.Adam(groups, betas=tuple(adam["betas"]), eps=adam["eps"], weight_decay=adam["weight_decay"]),
        len(losses) - 1,
        tmp_path,
        schedule=cosine_with_restarts(schedule["total_steps"], schedule["warmup_steps"], floor),
    )
    recorded = [name for name in case.tensors("out/") if name.endswith("loss_per_step")]
    for index in range(len(losses)):
        terms = trainer.step(index, batch)
        for name in recorded:
            ours, theirs = float(terms[name.removesuffix("_per_step")]), float(case[f"out/{name}"][index])
            np.testing.assert_allclose(ours, theirs, **limits(case, "trajectory"), err_msg=f"{name}, step {index}")
        (rate,) = {group["lr"] for group in trainer.optimizer.param_groups}
        np.testing.assert_allclose(rate, case["out/lr_per_step"][index], rtol=1e-9)
    state = original.export_state(model)
    norms = case.tensors("out/final_norm/")
    assert norms.keys() == state.keys()
    for name, norm in norms.items():
        np.testing.assert_allclose(state[name].double().norm(), norm, **limits(case, "trajectory"), err_msg=name)
