"""What the checks of SlotDiffusion's models share: comparison by a case's tolerances, gradients, training steps."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.training.schedules import cosine_with_restarts
from tests.parity.golden import Case
from tests.parity.steps import trainer_by_hand


def close(case: Case, name: str, ours: Tensor) -> None:
    theirs = case[f"out/{name}"]
    limits = {key: case.info["tolerance"][key] for key in ("rtol", "atol")}
    torch.testing.assert_close(ours.detach().to(theirs.dtype), theirs, **limits, msg=lambda text: f"{name}: {text}")


def check_gradients(case: Case, gradients: Mapping[str, Tensor | None]) -> None:
    """Norms of the gradients of all parameters, ours under the original's names."""
    norms = case.tensors("grad/")
    assert norms
    assert {key for key, value in gradients.items() if value is not None} == set(norms)
    limits = {key: case.info["grad_tolerance"][key] for key in ("rtol", "atol")}
    for key, norm in norms.items():
        torch.testing.assert_close(
            gradients[key].double().norm(), norm.double(), **limits, msg=lambda text, k=key: f"{k}: {text}"
        )


def gradients_of(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


def check_steps(
    case: Case,
    tmp_path: Path,
    model: nn.Module,
    groups: Sequence[dict[str, Any]],
    batch: dict[str, Tensor],
    before_step: Callable[[int], None] = lambda index: None,
) -> None:
    """Steps of the training loop on one batch: terms, rates, norms of gradients and of what the parameters changed by.

    The rates of `groups` are the highest; all fall to `min_lr`.
    """
    config, tolerance = case.info["config"], case.info["tolerance"]
    losses, rates = case["out/loss_per_step"], case["out/lr_per_step"]
    assert config["optimizer"].startswith("Adam")
    floors = [config["min_lr"] / group["lr"] for group in groups]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = trainer_by_hand(
        model.train(),
        torch.optim.Adam(list(groups)),
        len(losses) - 1,
        tmp_path,
        schedule=cosine_with_restarts(config["total_steps"], config["warmup_steps"], floors),
        clip_norm=config["clip_grad"] if config["clip_grad"] > 0 else None,
    )
    recorded = [name for name in case.tensors("out/") if name.endswith("loss_per_step")]
    for index in range(len(losses)):
        before_step(index)
        terms = trainer.step(index, batch)
        used = [group["lr"] for group in trainer.optimizer.param_groups]
        np.testing.assert_allclose(used, np.atleast_1d(rates[index]), rtol=1e-9)
        theirs = case["out/grad_norm_per_step"][index]
        np.testing.assert_allclose(trainer.grad_norm, theirs, rtol=tolerance["grad_norm_rtol"])
        for name in recorded:
            np.testing.assert_allclose(
                float(terms[name.removesuffix("_per_step")]),
                float(case[f"out/{name}"][index]),
                rtol=tolerance["rtol"],
                atol=tolerance["atol"],
                err_msg=f"{name}, step {index}",
            )
    changes = case.tensors("out/delta/")
    assert changes
    after = dict(model.named_parameters())
    for name, change in changes.items():
        ours = (after[name].detach() - before[name]).double().norm()
        torch.testing.assert_close(
            ours, change, rtol=tolerance["delta_rtol"], atol=0, msg=lambda text, k=name: f"{k}: {text}"
        )
