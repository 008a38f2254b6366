"""Checks of SPAIR."""

from pathlib import Path

import torch
from torch import Tensor

from clevrtex.framework.optim import build_optimizer
from clevrtex.framework.schedules import parse
from clevrtex.models.glimpses import boxes
from clevrtex.models.presence import Presence
from clevrtex.models.spair import SPAIR, Inference
from clevrtex.original.spair import from_original, to_original
from core.nn.noise import Noise
from tests.parity.clevrtex_gnm import check_final_norms
from tests.parity.clevrtex_models import RecordedNoise
from tests.parity.golden import Case, Check
from tests.parity.sprite_cases import check_gradient_norms, check_outputs, close_to_largest, constant_noise
from tests.parity.steps import trainer_by_hand

OPTIONS = {
    "patch_size": "patch_size",
    "anchor": "anchor",
    "pres_kl": "presence_kl",
    "passf": "passed",
    "what_dim": "what_size",
    "bg_dim": "background_size",
    "rein": "reinforce",
    "factor_loss": "factored",
    "context_grid_size": "reach",
    "large": "large",
    "std": "std",
}
"""Their constructor's arguments in ours."""
SIMPLE = "SimpleSPAIR"
CLIP_NORM = 1.0
GRADIENT_SHARE = 1e-2
"""Tolerance of gradients during training, of which the json does not speak."""


def build(case: Case) -> SPAIR:
    config = case.info["config"]
    arguments = {OPTIONS[key]: value for key, value in config["constructor"].items()}
    channels, *patch_size = arguments.pop("patch_size")
    assert channels == 3
    model = SPAIR(
        image_size=tuple(config["image_size_HW"]),
        patch_size=tuple(patch_size),
        simple=case.info["class"].endswith(SIMPLE),
        as_original=True,
        **arguments,
    )
    model.load_state_dict(from_original(case.tensors("state/")))
    for name, value in (config.get("attributes set after construction") or config["attributes"]).items():
        assert hasattr(model, name)
        setattr(model, name, value)
    return model.train(case.info["mode"].startswith("train"))


def noise_of(case: Case) -> Noise:
    return constant_noise(case, uniform=("presence", "presence_kl"))


def outputs_of(model: SPAIR, found: Inference) -> dict[str, Tensor]:
    """By the original's names."""
    cells, rendering = found.cells, found.rendering
    presence = Presence(cells.probability, model.pres_dist_name, model.z_pres_temperature)
    baseline, _ = model.baseline(cells.inputs)
    return {
        "canvas": rendering.canvas,
        "canvas_loc": rendering.canvas,
        "background": rendering.background,
        "counts": cells.presence[..., 0].round().sum(dim=1),
        "heatmap": cells.probability.transpose(1, 2).unflatten(2, model.cells.grid_size),
        "steps.z_where_loc": cells.where_mean,
        "steps.z_where_scl": cells.where_std,
        "steps.z_where": cells.where,
        "steps.where": cells.window,
        "steps.bbox": boxes(cells.window, model.image_size),
        "steps.z_what_loc": cells.what_mean,
        "steps.z_what_scl": cells.what_std,
        "steps.z_what": cells.what,
        "steps.z_depth_loc": cells.depth_mean,
        "steps.z_depth_scl": cells.depth_std,
        "steps.z_depth": cells.depth,
        "steps.z_pres_prob": cells.probability,
        "steps.z_pres": cells.presence,
        "steps.z_pres_logp": presence.log_prob(cells.presence),
        "steps.glimpse": cells.glimpse,
        "steps.robj": found.patches[:, :, :3],
        "steps.rmsk": found.patches[:, :, 3:],
        "steps.patch": rendering.colours(),
        "steps.mask": rendering.masks()[:, :, None],
        "steps.baseline": baseline,
        "z_bg": found.background_latents,
        "kl_bg_per_image": found.background_kl,
        **{f"steps.{name}": value for name, value in found.kl.items()},
    }


def check_model(case: Case, tmp_path: Path) -> None:
    """In evaluation the original has no loss and no divergences: the canvas, squared, is there to have gradients."""
    model, image = build(case), case["in/image"]
    found = model(image, noise_of(case))
    model.noise = RecordedNoise(lambda step: noise_of(case))
    terms = model.loss({"image": image}, 0)
    if model.training:
        terms = {"base_loss": torch.zeros(()), "rein_loss": torch.zeros(())} | terms
    else:
        terms = {"loss": found.rendering.canvas.square().sum(), "kl_bg_per_image": torch.zeros(len(image))}
    check_outputs(case, outputs_of(model, found) | terms)
    terms["loss"].backward()
    check_gradient_norms(case, to_original({name: value.grad for name, value in model.named_parameters()}))


def check_steps(case: Case, tmp_path: Path) -> None:
    model, image = build(case), case["in/image"]
    model.noise = RecordedNoise(lambda step: noise_of(case))
    losses = case["out/loss_per_step"]
    trainer = trainer_by_hand(
        model,
        build_optimizer(model, "adam", float(case["out/lr_per_step"][0, 0])),
        len(losses) - 1,
        tmp_path,
        clip_norm=CLIP_NORM,
    )
    for step, loss in enumerate(losses):
        model.z_pres_prior_p.copy_(case["out/prior_per_step"][step])
        model.output_hparam.copy_(case["out/std_per_step"][step])
        found = trainer.step(step, {"image": image})["loss"]
        close_to_largest(f"loss {step}", found, loss.float(), case.info["loss_tolerance_per_step"][step])
        norm = case["out/grad_norm_per_step"][step]
        close_to_largest(f"gradient {step}", trainer.grad_norm.double(), norm.double(), GRADIENT_SHARE)
        rates = torch.tensor([group["lr"] for group in trainer.optimizer.param_groups], dtype=torch.float64)
        torch.testing.assert_close(rates, case["out/lr_per_step"][step])
    ours = to_original({name: value.detach() for name, value in model.named_parameters()})
    check_final_norms(case, ours)


def schedules_of(case: Case) -> dict[str, Tensor]:
    """What our parser makes of the strings in the keys of the case `schedules`, at its steps and at the first."""
    total, ours = case.info["config"]["total_steps for spair"], {}
    for key in case.tensors("out/spair."):
        schedule = parse(key.removeprefix("init."))
        steps = [0] if key.startswith("init.") else case["in/steps"].tolist()
        values = torch.tensor([schedule.value(step, total) for step in steps], dtype=torch.float64)
        ours[f"spair.{key}"] = values[0] if key.startswith("init.") else values
    return ours


CHECKS: dict[str, Check] = {"spair_": check_model, "spair-traj": check_steps}
