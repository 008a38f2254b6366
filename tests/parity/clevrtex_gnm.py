"""Checks of GNM."""

import math
from pathlib import Path

import torch
from torch import Tensor

from clevrtex.framework.optim import build_optimizer
from clevrtex.models import gnm
from clevrtex.models.cells import LOGIT_SCALE
from clevrtex.models.celu_layers import Layer
from clevrtex.models.glimpses import paste
from clevrtex.models.gnm import GNM, Inference, Scene
from clevrtex.models.gnm_architecture import Architecture
from clevrtex.models.gnm_objects import EPSILON
from clevrtex.original.gnm import from_original, to_original
from core.nn.noise import Noise
from emorl.models.gaussian import DiagonalGaussian
from tests.parity.clevrtex_models import RecordedNoise
from tests.parity.golden import Case, Check
from tests.parity.sprite_cases import check_gradient_norms, check_outputs, close_to_largest, constant_noise
from tests.parity.steps import trainer_by_hand

LEARNING_RATE, CLIP_NORM = 1e-4, 1.0


def layers(config: dict, name: str, scale: str) -> tuple[Layer, ...]:
    """One layer per column of their lists."""
    columns = (config[f"{name}_{what}"] for what in ("filters", "kernel_sizes", scale, "groups"))
    return tuple(Layer(*column) for column in zip(*columns, strict=True))


def architecture_of(config: dict) -> Architecture:
    arch = config["arch"]
    conv, mlp, draw = arch["conv"], arch["mlp"], arch["structdraw"]
    return Architecture(
        encoder=layers(conv, "img_encoder", "strides"),
        what_decoder=layers(conv, "p_what_decoder", "upscales"),
        background_decoder=layers(conv, "p_bg_decoder", "upscales"),
        local=layers(arch["pwdw"], "pwdw", "strides"),
        canvas_update=layers(draw, "hid_to_dec", "strides"),
        num_cells=arch["num_cell"],
        draw_steps=arch["draw_step"],
        draw_kernel=draw["kernel_size"],
        encoder_hidden=draw["rnn_encoder_hid_dim"],
        decoder_hidden=draw["rnn_decoder_hid_dim"],
        # The last width of each follows from the size of what it gives.
        global_decoder=tuple(mlp["p_global_decoder_filters"][:-1]),
        global_posterior=tuple(mlp["q_global_encoder_filters"][:-1]),
        global_prior=tuple(mlp["p_global_encoder_filters"][:-1]),
        background_prior=tuple(mlp["p_bg_generator_filters"][:-1]),
        background_posterior=tuple(mlp["q_bg_encoder_filters"][:-1]),
    )


def build(case: Case) -> GNM:
    config = case.info["config"]
    const, sizes = config["const"], config["z"]
    assert (const["pres_logit_scale"], const["eps"]) == (LOGIT_SCALE, EPSILON)
    means = (const["scale_mean"], const["ratio_mean"], 0, 0)
    assert (means, (const["scale_std"], const["ratio_std"], const["shift_std"], const["shift_std"])) == gnm.WHERE_PRIOR
    model = GNM(
        image_size=(config["data"]["img_h"], config["data"]["img_w"]),
        std=const["likelihood_sigma"],
        what_size=sizes["z_what_dim"],
        background_size=sizes["z_bg_dim"],
        global_size=sizes["z_global_dim"],
        architecture=architecture_of(config),
        as_original=True,
    )
    model.load_state_dict(from_original(case.tensors("state/")))
    return model.train(case.info["mode"].startswith("train"))


def noise_of(case: Case) -> Noise:
    return constant_noise(case, uniform=("presence",))


def map_of(cells: Tensor) -> Tensor:
    """(B, N, D) as (B, D, rows, columns)."""
    return cells.transpose(1, 2).unflatten(2, (math.isqrt(cells.shape[1]), -1))


def of_distribution(name: str, found: DiagonalGaussian, axes: int = 0) -> dict[str, Tensor]:
    """Cells are in one axis with images; `axes` of size one end the shapes of the others."""
    shape = (...,) + (None,) * axes
    return {
        f"{name}_{what}": value[shape] if axes else value.flatten(0, 1)
        for what, value in (("mean", found.mean), ("std", found.std))
    }


def of_scene(scene: Scene) -> dict[str, Tensor]:
    return {
        "z_pres": map_of(scene.objects.presence[..., None]),
        "z_where": map_of(scene.objects.where),
        "z_depth": map_of(scene.objects.depth),
        "z_what": map_of(scene.objects.what),
        "z_global": scene.painting.latents[..., None, None],
        "z_bg": scene.background[..., None, None],
        "y": scene.rendering.picture,
        "y_fg": scene.rendering.foreground,
        "y_bg": scene.rendering.background,
        "alpha_map": scene.rendering.alpha,
    }


def of_inference(model: GNM, found: Inference, noise: Noise) -> dict[str, Tensor]:
    """By the original's names."""
    scene, posterior, prior = found.scene, found.posterior, found.prior
    objects, rendering = scene.objects, scene.rendering
    return {
        **of_scene(scene),
        "canvas": rendering.picture,
        "y_nobg": rendering.foreground,
        "canvas_with_bbox": model.frames(objects),
        "background": rendering.background,
        "counts": objects.presence.round().sum(dim=1),
        "steps.patch": paste(rendering.colours, objects.where, model.image_size, EPSILON),
        "steps.mask": rendering.masks[:, :, None],
        "steps.z_pres": objects.presence[..., None],
        "z_where_origin": map_of(posterior.where.sample(noise("where", tuple(posterior.where.mean.shape)))),
        **of_distribution("q_global", scene.painting.posterior, axes=2),
        **of_distribution("p_global", scene.painting.prior, axes=2),
        **of_distribution("q_bg", found.background_posterior, axes=2),
        **of_distribution("p_bg", found.background_prior, axes=2),
        **of_distribution("q_where", posterior.where),
        **of_distribution("p_where", prior.where),
        **of_distribution("q_depth", posterior.depth),
        **of_distribution("p_depth", prior.depth),
        **of_distribution("q_what", posterior.what),
        **of_distribution("p_what", prior.what),
        "q_pres_prob": posterior.presence_logit.sigmoid().flatten()[:, None],
        "p_pres_prob": prior.presence_logit.sigmoid().flatten()[:, None],
    }


def check_forward(case: Case, tmp_path: Path) -> None:
    model, step, image = build(case), case.info["config"]["global_step"], case["in/image"]
    found = model(image, noise_of(case), step)
    model.noise = RecordedNoise(lambda step: noise_of(case))
    terms = model.loss({"image": image}, step)
    check_outputs(case, of_inference(model, found, noise_of(case)) | terms)
    check_outputs(case, {"aux_p_pres_probs": torch.tensor(gnm.PRESENCE_PRIOR(step))}, "post_state/")
    terms["loss"].backward()
    check_gradient_norms(case, to_original({name: value.grad for name, value in model.named_parameters()}))


def check_generation(case: Case, tmp_path: Path) -> None:
    """With the most likely objects; as step 0 has it, which is the step of a model that was not trained."""
    model, noise = build(case), noise_of(case)
    assert case.info["config"]["global_step"] == 0
    scene = model.imagine(model.draw(case.info["config"]["num_sample"], noise), noise, mode=True)
    check_outputs(case, of_scene(scene))


def check_steps(case: Case, tmp_path: Path) -> None:
    model, image = build(case), case["in/image"]
    model.noise = RecordedNoise(lambda step: noise_of(case))
    losses = case["out/loss_per_step"]
    trainer = trainer_by_hand(
        model,
        build_optimizer(model, "rmsprop", LEARNING_RATE),
        len(losses) - 1,
        tmp_path,
        clip_norm=CLIP_NORM,
    )
    for step, (loss, rate) in enumerate(zip(losses, case["out/lr_per_step"])):
        assert abs(trainer.optimizer.param_groups[0]["lr"] / float(rate) - 1) < 1e-6
        found = trainer.step(step, {"image": image})["loss"]
        close_to_largest(f"loss {step}", found, loss.float(), case.info["loss_tolerance_per_step"][step])
        norm = case["out/grad_norm_per_step"][step]
        close_to_largest(f"gradient {step}", trainer.grad_norm.double(), norm.double(), 1e-2)
    check_final_norms(
        case, {name: value.detach() for name, value in to_original(dict(model.named_parameters())).items()}
    )


def check_final_norms(case: Case, parameters: dict[str, Tensor]) -> None:
    finals = case.tensors("final_norm/")
    assert finals
    (excluded,) = (keys for text, keys in case.info["rounding"].items() if text.startswith("final_norm keys to excl"))
    for key, norm in finals.items():
        if key not in excluded:
            close_to_largest(key, parameters[key].double().norm(), norm.double(), 2e-4)


CHECKS: dict[str, Check] = {"gnm_": check_forward, "gnm_generate": check_generation, "gnm-traj": check_steps}
