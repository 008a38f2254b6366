"""Checks of IODINE."""

import math
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn

from clevrtex.models.iodine import IODINE, Inference
from clevrtex.original.iodine import from_original, to_original
from tests.parity.clevrtex_models import (
    check_gradients,
    check_summary,
    check_trajectory,
    in_order,
    published_image,
    published_noise,
    published_state,
    tolerance,
)
from tests.parity.golden import Case, Check

NORMS = ("evidence", "leave_one_out", "of_rgb", "of_masks", "of_mean", "of_scale")
"""The layer norms in the original's order."""


def build(case: Case) -> IODINE:
    config = case.info["config"]
    model = IODINE(
        image_size=tuple(config["input_size"][1:]),
        num_slots=config["K"],
        num_iterations=config["inference_iters"],
        slot_size=config["z_size"],
        lstm_size=config["lstm_dim"],
        channels=config["conv_channels"],
        kl_weight=config["kl_beta"],
        std=math.exp(config["log_scale"]),
        as_original=True,
    )
    model.load_state_dict(from_original(case.tensors("state/")))
    return model.train(case.info["mode"].startswith("train"))


def record(model: IODINE) -> dict[str, list[Tensor]]:
    """Fills with the inputs of the layer norms and of the refinement and with its outputs, iteration by iteration."""
    seen = defaultdict(list)

    def refined(module: nn.Module, inputs: tuple, outputs: tuple) -> None:
        update, (hidden, cell) = outputs
        values = {"image_inputs_t": inputs[0], "vec_inputs_t": inputs[1], "delta_t": update, "h_t": hidden, "c_t": cell}
        for name, value in values.items():
            seen[name].append(value.detach())

    model.refinement.register_forward_hook(refined)
    for index, name in enumerate(NORMS):
        norm = getattr(model.refinement_inputs, f"norm_{name}")
        norm.register_forward_pre_hook(
            lambda module, inputs, key=f"raw_ln_t0_{index}": seen[key].append(inputs[0].detach())
        )
    return seen


def outputs_of(found: Inference) -> dict[str, Tensor]:
    """By the original's names."""
    masks = found.log_masks.exp()
    return {
        "canvas": (masks[:, :, None] * found.rgb).sum(dim=1),
        "masks": masks[:, :, None],
        "patches": found.rgb,
        "z": found.slots.flatten(0, 1),
        "loss": found.loss,
        "recon_loss": found.nll.mean(),
        "kl": found.kl.mean(),
    }


def check_model(case: Case, tmp_path: Path) -> None:
    model = build(case)
    seen = record(model)
    found = model(case["in/x"], in_order(case["in/eps"].unbind()))
    ours = outputs_of(found)
    for name, values in seen.items():
        ours[name] = values[0] if name.startswith("raw_ln") else torch.stack(values)
    limits = tolerance(case, "rtol")
    for name, theirs in case.tensors("out/").items():
        # What is the same for every slot we compute once.
        value = ours[name].expand(theirs.shape) if name == "raw_ln_t0_0" else ours[name].reshape(theirs.shape)
        of_this = tolerance(case, "loss") if name == "loss" else limits
        torch.testing.assert_close(value, theirs, **of_this, msg=lambda m, n=name: f"{n}: {m}")
    if model.training:
        found.loss.backward()
        check_gradients(case, model, to_original, **tolerance(case, "gradient norms"))


def check_steps(case: Case, tmp_path: Path) -> None:
    limits, draws = tolerance(case, "per-step values"), case["in/eps"]

    def after_step(index: int, terms: dict[str, Tensor]) -> None:
        for name in ("recon_loss", "kl"):
            torch.testing.assert_close(terms[name], case[f"out/{name}_per_step"][index].float(), **limits)

    check_trajectory(
        case,
        build(case),
        case["in/x"],
        lambda index: in_order(draws[index].unbind()),
        to_original,
        tmp_path,
        after_step=after_step,
    )


def check_published(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    model = IODINE((config["resolution"], config["resolution"]), config["slots"], as_original=True)
    model.load_state_dict(from_original(published_state(case)))
    model.train(case.info["mode"] == "train")
    normal, _ = published_noise(case)
    found = model(published_image(case), in_order(normal))
    ours = outputs_of(found)
    for name in ("loss", "recon_loss", "kl"):
        torch.testing.assert_close(ours[name].detach(), case[f"out/{name}"].float(), **tolerance(case, "loss"))
    for name in ("canvas", "masks", "patches"):
        check_summary(case, name, ours[name])
    if model.training:
        found.loss.backward()
        check_gradients(case, model, to_original, **tolerance(case, "gradient norms"))


CHECKS_OF_KINDS = {
    "forward": check_model,
    "training trajectory": check_steps,
    "published size": check_published,
}


def check(case: Case, tmp_path: Path) -> None:
    next(check for kind, check in CHECKS_OF_KINDS.items() if case.info["kind"].startswith(kind))(case, tmp_path)


CHECKS: dict[str, Check] = {"iodine-": check}
