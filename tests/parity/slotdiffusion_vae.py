"""Checks of the VQ-VAE, its frozen form and its perceptual loss, and of the dVAE as SlotDiffusion trains it."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.metrics.perceptual import BACKBONES, LPIPS, feature_distance
from core.nn.noise import Noise
from slotdiffusion.models.vqvae import VQVAE, FrozenVQVAE, load_vqvae
from slotformer import original
from slotformer.base_slots.models.dvae import dVAE
from slotformer.framework.annealing import cosine_anneal
from tests.parity.clevrtex_models import in_order
from tests.parity.golden import Case, Check
from tests.parity.slotdiffusion_cases import check_gradients, check_steps, close, gradients_of


def no_distance(x: Tensor, y: Tensor) -> Tensor:
    """LPIPS as it was recorded: turned off."""
    return x.new_zeros(len(x))


def build_vqvae(case: Case, tmp_path: Path, **options: float) -> VQVAE:
    config = case.info["config"]
    weights = {key: value for key, value in config.items() if key.endswith("_loss_w")}
    model = VQVAE(**{**weights, **config["enc_dec_dict"], **config["vq_dict"], **options})
    path = tmp_path / "vqvae.pth"
    torch.save({"state_dict": case.tensors("state/")}, path)
    load_vqvae(model, path)
    assert case.info["lpips"].startswith("disabled (returns 0)")
    model.lpips = no_distance
    return model


def check_vqvae(case: Case, tmp_path: Path) -> None:
    model, images = build_vqvae(case, tmp_path), case["in/img"]
    batch = {"video": images / 2 + 0.5}
    found, terms = model(images), model.loss(batch, 0)
    ours = {
        "z": found.latents,
        "quant": found.quantised,
        "token_id": found.token_id,
        "recon": found.recon,
        "quant_loss": terms["quant_loss"],
        "recon_loss": terms["recon_loss"],
        "percept_loss": terms["percept_loss"],
        "total_loss": terms["loss"],
        "recon_loss_if_percept_w_0": build_vqvae(case, tmp_path, percept_loss_w=0.0).loss(batch, 0)["recon_loss"],
        "eval_recon_mse": model.eval().loss(batch, 0)["recon_mse"],
    }
    terms["loss"].backward()
    check_gradients(case, gradients_of(model))
    frozen = FrozenVQVAE(model, case.info["wrapper_scale_factor"])
    latents = frozen.encode(images.flatten(0, -4))
    ours |= {
        "wrapper_encode": latents,
        "wrapper_quantize": frozen.quantize(latents),
        "wrapper_decode": frozen.decode(latents),
        "wrapper_decode_noquant": frozen.decode(latents, quantize=False),
    }
    for name in case.tensors("out/"):
        close(case, name, ours[name])


def check_vqvae_steps(case: Case, tmp_path: Path) -> None:
    model = build_vqvae(case, tmp_path)
    groups = [{"params": list(model.parameters()), "lr": case.info["config"]["lr"]}]
    check_steps(case, tmp_path, model, groups, {"video": case["in/img"] / 2 + 0.5})


def check_lpips_head(case: Case, tmp_path: Path) -> None:
    stages = range(len(BACKBONES["vgg"].stages))
    layers = [feature_distance(*(case[f"in/feat_{x}{i}"] for x in "xy"), case[f"in/lin{i}"].flatten()) for i in stages]
    for index, layer in enumerate(layers):
        close(case, f"layer{index}", layer.view(-1, 1, 1, 1))
    close(case, "distance", torch.stack(layers).sum(dim=0).view(-1, 1, 1, 1))
    weights = {name: torch.zeros(shape) for name, shape in BACKBONES[case.info["config"]["net"]].weights().items()}
    lpips = LPIPS(case.info["config"]["net"], weights)
    close(case, "scaling_out", (case["in/scaling_in"] - lpips.shift) / lpips.scale)


class ExponentialNoise:
    """The recorded Exp(1) draws of every step: theirs are (frames, V, h, w), ours (..., h * w, V)."""

    def __init__(self, draws: Tensor):
        self.draws = draws.flatten(-2).transpose(-1, -2)

    def at(self, step: int, device: torch.device, sample: Callable[..., Tensor]) -> Noise:
        return in_order([self.draws[step]])


def build_dvae(case: Case, tau: float) -> dVAE:
    config = case.info["config"]
    model = dVAE(init_tau=tau, **{key: config[key] for key in ("vocab_size", "img_channels") if key in config})
    model.load_state_dict(original.import_state(model, case.tensors("state/")))
    return model


def check_dvae(case: Case, tmp_path: Path) -> None:
    images, draws = case["in/img"], ExponentialNoise(case["in/exp_noise"][None])
    model = build_dvae(case, case.info["config"]["tau"])
    found = model(images, draws.at(0, images.device, torch.empty), with_logits=True)
    model.noise = draws
    loss = model.loss({"video": images / 2 + 0.5}, 0)["loss"]
    loss.backward()
    check_gradients(case, gradients_of(model))
    tokens = model.tokenize(images)
    ours = {
        "recon": found.recon,
        "z_logits": found.z_logits,
        "recon_loss": loss,
        "token_id": tokens,
        "detokenized": model.detokenize(tokens),
        "tau_schedule": tau_schedule(case),
    }
    for name in case.tensors("out/"):
        if hard := re.fullmatch(r"recon_hard_tau([\d.]+)", name):
            model.tau = float(hard[1])
            ours[name] = model(images, draws.at(0, images.device, torch.empty), hard=True).recon
        close(case, name, ours[name])


def tau_schedule(case: Case) -> Tensor:
    meaning = case.info["out"]["tau_schedule"]["meaning"]
    described = re.fullmatch(r"cosine annealing ([\d.]+) -> ([\d.]+) over (\d+) steps, steps 0\.\.(\d+)", meaning)
    assert described, meaning
    begin, end, steps = (float(value) for value in described.groups()[:3])
    return torch.tensor([cosine_anneal(step, begin, end, steps) for step in range(int(described[4]) + 1)])


def check_dvae_steps(case: Case, tmp_path: Path) -> None:
    config, temperatures = case.info["config"], case["out/tau_per_step"]
    model = build_dvae(case, config["init_tau"])
    model.noise = ExponentialNoise(case["in/exp_noise"])

    def anneal(index: int) -> None:
        tau = cosine_anneal(index, config["init_tau"], config["final_tau"], config["tau_decay_steps"])
        np.testing.assert_allclose(tau, temperatures[index], rtol=1e-9)
        model.tau = tau

    groups = [{"params": list(model.parameters()), "lr": config["lr"]}]
    check_steps(case, tmp_path, model, groups, {"video": case["in/img"] / 2 + 0.5}, anneal)


CHECKS: dict[str, Check] = {
    "vqvae": check_vqvae,
    "vqvae-traj": check_vqvae_steps,
    "lpips-head": check_lpips_head,
    "dvae": check_dvae,
    "dvae-traj": check_dvae_steps,
}
