"""Checks of MONet."""

from pathlib import Path

import torch
from torch import Tensor

from clevrtex.models.monet import KL_WEIGHT, MASK_KL_WEIGHT, Inference, MONet
from clevrtex.original.monet import from_original, to_original
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


def build(case: Case) -> MONet:
    config = case.info["config"]
    model = MONet(
        image_size=tuple(config["shape"][1:]),
        num_slots=config["n_slots"],
        slot_size=config["z_dim"],
        num_blocks=config["numb"],
        width=config["ngf"],
        background_std=config["bg_scl"],
        foreground_std=config["fg_scl"],
    )
    model.load_state_dict(from_original(case.tensors("state/")))
    return model.train(case.info["mode"].startswith("train"))


def outputs_of(found: Inference) -> dict[str, Tensor]:
    """By the original's names."""
    masks = found.log_masks.exp()
    terms = {
        "rec_loss": found.nll.mean(),
        "kl": KL_WEIGHT * found.kl.mean(),
        "kl_mask": MASK_KL_WEIGHT * found.mask_kl.mean(),
    }
    return terms | {
        "loss": terms["rec_loss"] + terms["kl"] + terms["kl_mask"],
        "canvas": (masks[:, :, None] * found.rgb).sum(dim=1),
        "masks": masks[:, :, None],
        "patches": found.rgb,
        "other_masks": found.log_decoded_masks[:, :, None],
        "z_mean": found.mean.transpose(0, 1),
        "z_std": found.std.transpose(0, 1),
    }


def check_model(case: Case, tmp_path: Path) -> None:
    """Evaluation too has a loss and its gradient in the original."""
    model, image = build(case), case["in/x"]
    shape = (model.attention.num_slots, len(image), model.slot_size)
    draws = case["in/eps"] if "in/eps" in case else torch.zeros(shape)
    ours = outputs_of(model(image, in_order(draws)))
    for name, theirs in case.tensors("out/").items():
        limits = tolerance(case, "loss" if name == "loss" else "rtol")
        torch.testing.assert_close(ours[name], theirs, **limits, msg=lambda m, n=name: f"{n}: {m}")
    ours["loss"].backward()
    check_gradients(case, model, to_original, **tolerance(case, "gradient norms"))


def check_steps(case: Case, tmp_path: Path) -> None:
    draws = case["in/eps"]

    def after_step(index: int, terms: dict[str, Tensor]) -> None:
        for name in ("rec_loss", "kl", "kl_mask"):
            limits = tolerance(case, "loss" if name == "rec_loss" else "kl terms")
            torch.testing.assert_close(terms[name], case[f"out/{name}_per_step"][index].float(), **limits)

    check_trajectory(
        case,
        build(case),
        case["in/x"],
        lambda index: in_order(draws[index]),
        to_original,
        tmp_path,
        after_step=after_step,
    )


def check_published(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    model = MONet((config["resolution"], config["resolution"]), config["slots"])
    model.load_state_dict(from_original(published_state(case)))
    model.train(case.info["mode"] == "train")
    normal, _ = published_noise(case)
    ours = outputs_of(model(published_image(case), in_order(normal)))
    for name in ("loss", "rec_loss", "kl", "kl_mask"):
        torch.testing.assert_close(ours[name].detach(), case[f"out/{name}"].float(), **tolerance(case, "loss"))
    for name in ("canvas", "masks", "patches", "other_masks"):
        check_summary(case, name, ours[name])
    if model.training:
        ours["loss"].backward()
        check_gradients(case, model, to_original, **tolerance(case, "gradient norms"))


CHECKS_OF_KINDS = {
    "forward": check_model,
    "training trajectory": check_steps,
    "published size": check_published,
}


def check(case: Case, tmp_path: Path) -> None:
    next(check for kind, check in CHECKS_OF_KINDS.items() if case.info["kind"].startswith(kind))(case, tmp_path)


CHECKS: dict[str, Check] = {"monet-": check}
