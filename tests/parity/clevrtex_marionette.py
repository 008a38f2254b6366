"""Checks of MarioNette."""

import ast
import re
from pathlib import Path

import torch
from torch import Tensor

from clevrtex.experiments.marionette import MarioNette as Experiment
from clevrtex.marionet.pictures import checkerboard
from clevrtex.models import build_model
from clevrtex.models.image_pyramid import pyramid_loss, smooth
from clevrtex.models.marionette import Inference, MarioNette
from clevrtex.original.marionette import from_original, to_original
from core.nn.noise import Noise
from tests.parity.clevrtex_models import RecordedNoise
from tests.parity.golden import Case, Check
from tests.parity.sprite_cases import check_gradient_norms, check_outputs, close_to_largest
from tests.parity.steps import trainer_by_hand

NAMES = {
    "cs": "canvas_size",
    "ls": "layer_size",
    "nl": "num_layers",
    "nc": "num_classes",
    "dz": "dim_z",
    "dbg": "dim_bg",
}
"""Short names that trajectories use."""
NOT_OF_MODEL = {"hard", "color", "mkw", "bg", "nbg", "canvas_size"}
SCALARS = ("rec_loss", "beta_loss", "probs_loss", "psnr", "psnr_hard")


def settings_of(case: Case) -> Experiment:
    config = {NAMES.get(name, name): value for name, value in case.info["config"].items()}
    flags = {name: value for name, value in config.items() if name not in NOT_OF_MODEL}
    background = config.get("nbg", 1) if config.get("bg", True) else 0
    return Experiment(**flags, **config.get("mkw", {}), background=background)


def build(case: Case) -> MarioNette:
    image_size = tuple(case["in/image"].shape[2:])
    model = build_model(Experiment.model, settings_of(case).model_arguments(image_size))
    model.load_state_dict(from_original(case.tensors("state/")))
    return model.train()


def noise_of(case: Case) -> Noise:
    """A draw whose ranks are the permutation that the json gives."""
    (text,) = re.findall(r"torch\.randperm is (\[[\d, ]+\]|the identity)", case.info["noise"])
    order = torch.tensor(ast.literal_eval(text)) if text.startswith("[") else torch.arange(4)
    return lambda name, shape: order.argsort().float().expand(shape)


def outputs_of(model: MarioNette, found: Inference, image: Tensor, noise: Noise) -> dict[str, Tensor]:
    """By the original's names. Its patches are premultiplied."""
    order = model.draw_order(len(image), noise, image.device)
    sprites, codes = model.dictionary()
    slots = model.decomposition(found, order)
    return {
        "weights": found.weights,
        "probs": found.presence.flatten(2),
        "shifts": found.shifts,
        "layers": model.lay_out(found),
        "reconstruction": slots.recon,
        "l.mask": slots.masks[:, 1:, None],
        "l.patch": slots.masks[:, 1:, None] * slots.rgb[:, 1:],
        "dict": sprites,
        "dict_codes": codes,
        "im_codes": model.encoder(image).flatten(0, 1),
        "background": model.background()[0] if model.num_backgrounds else found.background[:1],
        "bg": found.background,
    }


def check_model(case: Case, tmp_path: Path) -> None:
    model, image = build(case), case["in/image"]
    found = model(image)
    if case.info["config"]["hard"]:
        found = found.hardened()
    ours = outputs_of(model, found, image, noise_of(case))
    terms = model.loss_terms(found, ours["reconstruction"], image)
    check_outputs(case, ours | terms)
    terms["loss"].backward()
    gradients = to_original({name: value.grad for name, value in model.named_parameters()})
    # The constant colour, which has none, is no parameter here.
    check_gradient_norms(case, dict.fromkeys(case.info["grad_is_none"]) | gradients)


def check_steps(case: Case, tmp_path: Path) -> None:
    model, image = build(case), case["in/image"]
    model.noise = RecordedNoise(lambda step: noise_of(case))
    losses = case["out/loss_per_step"]
    trainer = trainer_by_hand(
        model,
        settings_of(case).build_optimizer(model),
        len(losses) - 1,
        tmp_path,
    )
    limit = max(case.info["loss_tolerance_per_step"])
    for step, loss in enumerate(losses):
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        torch.testing.assert_close(torch.tensor(rates).double(), case["out/lr_per_step"][step], rtol=1e-6, atol=0)
        terms = trainer.step(step, {"image": image})
        close_to_largest(f"loss {step}", terms["loss"], loss.float(), case.info["loss_tolerance_per_step"][step])
        for name, value in zip(SCALARS, case["out/scalars_per_step"][step], strict=True):
            close_to_largest(f"{name} {step}", terms[name], value.float(), limit)
    parameters = to_original(dict(model.named_parameters()))
    (excluded,) = (keys for text, keys in case.info["rounding"].items() if text.startswith("final_norm keys to excl"))
    finals = {key: norm for key, norm in case.tensors("final_norm/").items() if key not in excluded}
    assert finals
    for key, norm in finals.items():
        close_to_largest(key, parameters[key].detach().double().norm(), norm.double(), 2e-4)


def check_pyramid(case: Case, tmp_path: Path) -> None:
    recon, image = case["in/pred"].requires_grad_(), case["in/target"]
    ours = {"smooth": smooth(recon), "checkers": checkerboard(*image.shape[2:])[None]}
    for power in (1, 2):
        ours[f"l{power}"] = pyramid_loss(recon, image, power)
        (ours[f"l{power}_grad_pred"],) = torch.autograd.grad(ours[f"l{power}"], recon)
    limit = float(case.info["tolerance"])
    for name, theirs in case.tensors("out/").items():
        close_to_largest(name, ours[name].detach(), theirs, limit)


CHECKS: dict[str, Check] = {
    "marionette_": check_model,
    "marionette_pyramid": check_pyramid,
    "marionette-traj": check_steps,
}
