"""Checks of ClevrTex's EfficientMORL."""

from pathlib import Path

import torch
from torch import Tensor

from clevrtex.models.effmorl import EffMORL
from clevrtex.original.effmorl import from_original, to_original
from core.nn.noise import Noise
from emorl.models.efficient_morl import Inference
from emorl.models.geco import GECO
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


def build(case: Case) -> EffMORL:
    config = case.info["config"]
    training = case.info["mode"] == "train"
    if config.get("bottom_up_prior"):
        prior = "bottom_up"
    else:
        prior = "reversed++" if config.get("reverse_prior_plusplus", True) else "reversed"
    model = EffMORL(
        image_size=tuple(config["input_size"][1:]),
        num_slots=config["K"],
        slot_size=config["z_size"],
        std=config["std"],
        kl_weight=float(config["kl_beta_init"]),
        refinement_curriculum=config["refinement_curriculum"],
        refinement_iters=config["refinement_iters"] if training else config["refinement_iters_used"],
        use_geco=config.get("use_geco", True),
        geco_target=config["geco_reconstruction_target"],
        geco_alpha=config.get("geco_ema_alpha", 0.99),
        geco_step_size=config.get("geco_beta_stepsize", 1e-6),
        geco_warm_start=config["geco_warm_start"],
        num_layers=config["stochastic_layers"],
        likelihood=config["image_likelihood"],
        prior=prior,
        hidden=config["hidden"],
    )
    model.load_state_dict(from_original(case.tensors("state/")))
    return model.train(training)


def close(ours: Tensor, theirs: Tensor, name: str, limits: dict[str, float]) -> None:
    torch.testing.assert_close(ours.detach(), theirs.view(ours.shape), **limits, msg=lambda m: f"{name}: {m}")


def infer(model: EffMORL, image: Tensor, step: int, noise: Noise) -> tuple[Inference, dict[str, Tensor]]:
    """The original averages over the batch in evaluation too."""
    found = model(image, step, noise=noise, keep_pictures=True, images_per_mean=len(image))
    score = found.scores[-1]
    masks = score.log_masks.exp()
    return found, {
        "loss": found.loss,
        "rec_loss": found.nll.mean(),
        "kl": found.kl.mean(),
        "canvas": torch.einsum("bkhw,bkchw->bchw", masks, score.rgb),
        "masks": masks,
        "patches": score.rgb,
        "deltas": torch.stack([update.norm(dim=-1).mean() for update in found.updates]),
    }


def check_model(case: Case, tmp_path: Path) -> None:
    model, step = build(case), int(case["in/global_step"])
    assert model.num_refinements(step) == case.info["config"]["refinement_iters_used"]
    found, ours = infer(model, case["in/x"], step, in_order(case["in/eps"]))
    if model.training:
        model.after_step(step, {"rec_loss": ours["rec_loss"].detach()})
    ours |= {
        "attn_l": torch.stack(found.attention),
        "means_i": torch.stack([score.rgb for score in found.scores]),
        "logmasks_i": torch.stack([score.log_masks for score in found.scores]),
        "lambda_i": torch.stack(found.parameters),
        "geco_C_ema_after": model.geco.ema,
        "geco_beta_after": model.geco.beta,
    }
    for name, value in case.tensors("out/").items():
        close(ours[name], value, name, tolerance(case, "loss" if name == "loss" else "rtol"))
    if model.training:
        found.loss.backward()
        check_gradients(case, model, to_original, **tolerance(case, "gradient norms"))


def check_steps(case: Case, tmp_path: Path) -> None:
    model, draws, limits = build(case), case["in/eps"], tolerance(case, "per-step values")

    def check_terms(index: int, terms: dict[str, Tensor]) -> None:
        ours = {**terms, "geco_C_ema": model.geco.ema, "geco_beta": model.geco.beta}
        for name in ("rec_loss", "kl", "geco_C_ema", "geco_beta"):
            close(ours[name], case[f"out/{name}_per_step"][index], f"{name} of step {index}", limits)

    check_trajectory(
        case,
        model,
        case["in/x"],
        lambda index: in_order(draws[index]),
        to_original,
        tmp_path,
        controllers=[model.after_step],
        after_step=check_terms,
    )


def check_published(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    model = EffMORL((config["resolution"], config["resolution"]), config["slots"])
    model.load_state_dict(from_original(published_state(case)))
    model.train(case.info["mode"] == "train")
    normal, _ = published_noise(case)
    found, ours = infer(model, published_image(case), config["global_step"], in_order(normal))
    close(ours["loss"], case["out/loss"], "loss", tolerance(case, "loss"))
    for name in ("rec_loss", "kl", "deltas"):
        close(ours[name], case[f"out/{name}"], name, tolerance(case, "stats and samples"))
    for name in ("canvas", "masks", "patches"):
        check_summary(case, name, ours[name])
    if model.training:
        found.loss.backward()
        check_gradients(case, model, to_original, **tolerance(case, "gradient norms"))


def check_geco(case: Case, tmp_path: Path) -> None:
    config, limits = case.info["config"], tolerance(case, "rtol")
    geco = GECO(config["target"], config["alpha"], config["step_size"], acceleration=1.0, warm_start=0)
    geco.beta.fill_(config["beta0"])
    for call, nll in enumerate(case["in/nll"]):
        geco.update(nll, call)
        for name, ours in (("C_ema", geco.ema), ("beta", geco.beta), ("constraint", geco.constraint(nll))):
            close(ours, case[f"out/{name}"][call], f"{name} of call {call}", limits)


CHECKS: dict[str, Check] = {
    "effmorl-": check_model,
    "effmorl-traj": check_steps,
    "effmorl-pubsize": check_published,
    "geco-effmorl": check_geco,
}
