"""Checks of ClevrTex's Slot Attention."""

from pathlib import Path

import torch
from torch import Tensor

from clevrtex.models.slot_attention import SlotAttention
from clevrtex.original.slota import from_original, to_original
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


def build(case: Case) -> SlotAttention:
    config = case.info["config"]
    model = SlotAttention(
        image_size=tuple(config["input_shape"][1:]),
        num_slots=config["num_slots"],
        num_iterations=config["num_iterations"],
        hidden=config["hidden"],
        mlp_hidden=config["mlp_hidden"],
        decoder_initial_size=tuple(config["decoder_initial_size"]),
    )
    model.load_state_dict(from_original(case.tensors("state/")))
    return model.train(case.info["mode"].startswith("train"))


def squared_error(image: Tensor, recon: Tensor) -> Tensor:
    return (image - recon).square().sum() / len(image)


def check_model(case: Case, tmp_path: Path) -> None:
    model, image, noise = build(case), case["in/x"], in_order([case["in/slot_noise"]])
    found = model(image, noise)
    ours = {
        "canvas": found.recon,
        "masks": found.masks[:, :, None],
        "patches": found.rgb,
        "slots": found.slots,
        "attn": found.attention / found.attention.sum(dim=-1, keepdim=True),
        "loss": squared_error(image, found.recon),
    }
    theirs, limits = case.tensors("out/"), tolerance(case, "rtol")
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, **limits, msg=lambda m, n=name: f"{n}: {m}")
    if "loss" in theirs:
        ours["loss"].backward()
        check_gradients(case, model, to_original, **tolerance(case, "gradient norms"))


def check_steps(case: Case, tmp_path: Path) -> None:
    draws = case["in/slot_noise"]
    check_trajectory(case, build(case), case["in/x"], lambda index: in_order([draws[index]]), to_original, tmp_path)


def check_published(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    model = SlotAttention((config["resolution"], config["resolution"]), config["slots"])
    model.load_state_dict(from_original(published_state(case)))
    model.train(case.info["mode"] == "train")
    normal, _ = published_noise(case)
    image = published_image(case)
    found = model(image, in_order(normal))
    for name, value in (("canvas", found.recon), ("masks", found.masks), ("patches", found.rgb)):
        check_summary(case, name, value)
    if "out/loss" in case:
        loss = squared_error(image, found.recon)
        torch.testing.assert_close(loss.detach(), case["out/loss"].float(), **tolerance(case, "loss"))
        loss.backward()
        check_gradients(case, model, to_original, **tolerance(case, "gradient norms"))


CHECKS_OF_KINDS = {
    "forward": check_model,
    "training trajectory": check_steps,
    "published size": check_published,
}


def check(case: Case, tmp_path: Path) -> None:
    next(check for kind, check in CHECKS_OF_KINDS.items() if case.info["kind"].startswith(kind))(case, tmp_path)


CHECKS: dict[str, Check] = {"slota-": check}
