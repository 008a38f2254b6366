"""Checks of GENESIS-V2 and its GECO."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from clevrtex.models.genesis_geco import GenesisGECO
from clevrtex.models.genesisv2 import GenesisV2, Inference
from clevrtex.original.genesisv2 import from_original, to_original
from core.nn.noise import Noise
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

OPTIONS = {
    "feat_dim": "slot_size",
    "K_steps": "num_slots",
    "g_goal": "goal",
    "pixel_std": "pixel_std",
    "kernel": "similarity",
    "semiconv": "semi_convolution",
    "autoreg_prior": "autoregressive_prior",
    "pixel_bound": "pixel_bound",
    "klm_loss": "mask_kl",
    "detach_mr_in_klm": "detach_masks",
}
"""Their constructor's arguments in ours."""
GECO_OPTIONS = {"g_alpha": "alpha", "g_min": "beta_min", "g_speedup": "speedup"}
TRAINING_OPTIONS = {"optim", "lr", "learning_rate", "grad_clip", "steps"}


def build(case: Case) -> GenesisV2:
    config = {key: value for key, value in case.info["config"].items() if key not in TRAINING_OPTIONS}
    side = config.pop("img_size")
    geco = {GECO_OPTIONS[key]: config.pop(key) for key in GECO_OPTIONS if key in config}
    model = GenesisV2(
        image_size=(side, side), as_original=True, **{OPTIONS[key]: value for key, value in config.items()}
    )
    for name, value in geco.items():
        setattr(model.geco, name, value)
    model.load_state_dict(from_original(case.tensors("state/")))
    return model.train(case.info["mode"].startswith("train"))


def draws_of(uniform: Tensor, normal: Tensor | Iterator[Tensor]) -> Noise:
    """The recorded draws. The model makes its seed map from normal draws: in double precision they give it exactly."""
    normal_map = torch.special.ndtri(uniform.double())
    assert torch.equal(torch.special.ndtr(normal_map).float(), uniform)
    return in_order(iter([normal_map, *normal]))


def outputs_of(found: Inference) -> dict[str, Tensor]:
    """By the original's names."""
    masks = found.log_masks.exp()
    return {
        "canvas": (masks[:, :, None] * found.rgb).sum(dim=1),
        "masks": masks[:, :, None],
        "patches": found.rgb,
        "other_masks": found.log_attention.exp()[:, :, None],
        "z_mean": found.mean.transpose(0, 1),
        "z_std": found.std.transpose(0, 1),
        "seeds": found.seeds.transpose(0, 1),
        "colour": found.colours,
    }


class SameDraws:
    """Gives the recorded draws at every step."""

    count = 1

    def __init__(self, uniform: Tensor, normal: Tensor):
        self.recorded = uniform, normal

    def at(self, step: int, device: torch.device) -> Noise:
        return draws_of(*self.recorded)


def check_model(case: Case, tmp_path: Path) -> None:
    """GECO learns after the step in training, and within `loss` in evaluation, as the original did."""
    model, image, recorded = build(case), case["in/x"], (case["in/rand_pixel"], case["in/eps"])
    ours = outputs_of(model(image, draws_of(*recorded)))
    model.noise = SameDraws(*recorded)
    terms = model.loss({"image": image}, 0)
    if model.training:
        model.geco.update(terms["rec_loss"])
    ours |= terms | {"beta_after": model.geco.beta, "err_ema_after": model.geco.ema}
    for name, theirs in case.tensors("out/").items():
        limits = tolerance(case, "loss" if name == "loss" else "rtol")
        torch.testing.assert_close(ours[name], theirs, **limits, msg=lambda m, n=name: f"{n}: {m}")
    if model.training:
        terms["loss"].backward()
        check_gradients(case, model, to_original, **tolerance(case, "gradient norms"))


def check_steps(case: Case, tmp_path: Path) -> None:
    model = build(case)
    limits, uniform, normal = tolerance(case, "per-step values"), case["in/rand_pixel"], case["in/eps"]

    def after_step(index: int, terms: dict[str, Tensor]) -> None:
        ours = {"beta": model.geco.beta, "err_ema": model.geco.ema, "rec_loss": terms["rec_loss"], "kl": terms["kl"]}
        for name, value in ours.items():
            torch.testing.assert_close(value, case[f"out/{name}_per_step"][index].float(), **limits)

    check_trajectory(
        case,
        model,
        case["in/x"],
        lambda index: draws_of(uniform[index], normal[index]),
        to_original,
        tmp_path,
        controllers=[lambda step, terms: model.geco.update(terms["rec_loss"])],
        after_step=after_step,
    )


def check_published(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    model = GenesisV2((config["resolution"], config["resolution"]), config["slots"])
    first_beta = model.geco.beta.clone()
    model.load_state_dict(from_original(published_state(case)))
    model.geco.beta.copy_(first_beta)  # the json has the buffer's value after this pass
    model.train(case.info["mode"] == "train")
    normal, uniform = published_noise(case)
    found = model(published_image(case), draws_of(next(uniform), normal))
    error, kl = found.nll.mean(), found.kl.mean()
    loss = model.geco.loss(error, kl)
    model.geco.update(error)
    terms = {"loss": loss, "rec_loss": error, "kl": kl, "elbo": error + kl, "beta": model.geco.beta}
    for name, value in terms.items():
        torch.testing.assert_close(value.detach(), case[f"out/{name}"].float(), **tolerance(case, "loss"))
    ours = outputs_of(found)
    for name in ("canvas", "masks", "patches", "other_masks"):
        check_summary(case, name, ours[name])
    if model.training:
        loss.backward()
        check_gradients(case, model, to_original, **tolerance(case, "gradient norms"))


def check_geco(case: Case, tmp_path: Path) -> None:
    given = dict(case.info["config"])
    geco = GenesisGECO(beta=given.pop("beta_init"), **given)
    for step, (error, kl) in enumerate(zip(case["in/err"], case["in/kl"])):
        ours = {"loss": geco.loss(error, kl)}
        geco.update(error)
        ours |= {"beta": geco.beta, "err_ema": geco.ema}
        for name, value in ours.items():
            torch.testing.assert_close(value, case[f"out/{name}"][step], **tolerance(case, "rtol"))


CHECKS_OF_KINDS = {
    "forward": check_model,
    "training trajectory": check_steps,
    "published size": check_published,
}


def check(case: Case, tmp_path: Path) -> None:
    next(check for kind, check in CHECKS_OF_KINDS.items() if case.info["kind"].startswith(kind))(case, tmp_path)


CHECKS: dict[str, Check] = {"genesisv2-": check, "geco-genesis": check_geco}
