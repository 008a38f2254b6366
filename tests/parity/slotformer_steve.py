"""Checks of SlotFormer's discrete VAE and of STEVE with its token decoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.noise import Noise
from slotformer import original
from slotformer.base_slots.models.dvae import dVAE
from slotformer.base_slots.models.linear_cross_entropy import linear_cross_entropy
from slotformer.base_slots.models.steve import STEVE, parameter_groups
from slotformer.base_slots.models.token_decoder import TokenDecoder
from slotformer.framework.annealing import cosine_anneal
from tests.parity.clevrtex_models import in_order
from tests.parity.golden import Case, Check
from tests.parity.slotformer_savi import check_gradients, check_steps, close, gradients_of


class ExponentialNoise:
    """The recorded Exp(1) draws of the original, at every step: theirs are (frames, V, h, w), ours (..., h * w, V)."""

    def __init__(self, case: Case):
        self.draws = case["in/exp_noise"].flatten(2).transpose(1, 2)

    def at(self, step: int, device: torch.device, sample: Callable[..., Tensor]) -> Noise:
        return in_order([self.draws])


def load(model: nn.Module, theirs: dict[str, Tensor]) -> None:
    """Import the recorded weights, and see that an export gives them back."""
    model.load_state_dict(original.import_state(model, theirs))
    exported = original.export_state(model)
    assert {key: value.shape for key, value in exported.items()} == {key: value.shape for key, value in theirs.items()}
    for key, value in exported.items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=1e-6, msg=lambda text, k=key: f"{k}: {text}")


def build_dvae(case: Case, **options: Any) -> dVAE:
    model = dVAE(**case.info["config"], **case.info["loss_weights"], **options)
    load(model, case.tensors("state/"))
    model.noise = ExponentialNoise(case)
    return model


def check_dvae(case: Case, tmp_path: Path) -> None:
    model, images = build_dvae(case, init_tau=case.info["tau"]), case["in/img"]
    noise = model.noise.at(0, images.device, torch.randn)
    found = model(images, noise, with_logits=True)
    terms = model.loss({"video": images / 2 + 0.5}, 0)
    for name, value in {"recon": found.recon, "z_logits": found.z_logits, **terms}.items():
        close(case, name, value)
    terms["loss"].backward()
    check_gradients(case, gradients_of(model))
    model.zero_grad()
    hard = model(images, model.noise.at(0, images.device, torch.randn), hard=True).recon
    hard_loss = F.mse_loss(hard, images)
    close(case, "recon_hard", hard)
    close(case, "recon_loss_hard", hard_loss)
    hard_loss.backward()
    check_gradients(case, gradients_of(model), "gradhard/")
    tokens = model.eval().tokenize(images)
    close(case, "tokens", tokens)
    close(case, "recon_from_tokens", model.detokenize(tokens).flatten(0, -4))
    best = found.z_logits.topk(2, dim=-3).values
    close(case, "token_margin_min", (best[:, :, 0] - best[:, :, 1]).min())


def check_dvae_steps(case: Case, tmp_path: Path) -> None:
    """In double precision: one activation that rounding carries over the edge of a ReLU moves a gradient by 4e-4."""
    params, total = case.info["params"], case.info["schedule"]["total_steps"]
    model, temperatures = build_dvae(case).double(), case["out/schedule_per_step"]
    model.noise.draws = model.noise.draws.double()

    def anneal(index: int) -> None:
        tau = cosine_anneal(index, params["init_tau"], params["final_tau"], params["tau_decay_pct"] * total)
        np.testing.assert_allclose(tau, temperatures[index], rtol=1e-9)
        model.tau = tau

    groups = [{"params": list(model.parameters()), "lr": params["lr"]}]
    check_steps(case, tmp_path, model, groups, {"video": case["in/img"].double() / 2 + 0.5}, 0.01, anneal)


def build_steve(case: Case) -> STEVE:
    arguments: dict[str, Any] = {"dropout": 0.0, **case.info["loss_weights"]}
    for key, value in case.info["config"].items():
        arguments |= value if isinstance(value, dict) else {key: value}
    del arguments["dvae_ckp_path"]
    model = STEVE(**{key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()})
    theirs = case.tensors("state/")
    if not any(key.startswith("dvae.") for key in theirs):
        theirs |= {f"dvae.{key}": value for key, value in model.dvae.state_dict().items()}
    load(model, theirs)
    if "in/exp_noise" in case:
        model.noise = ExponentialNoise(case)
    return model


def check_steve(case: Case, tmp_path: Path) -> None:
    model, batch = build_steve(case), {"video": case["in/img"] / 2 + 0.5}
    track = next(model.track_clips(case["in/img"], in_order([])))
    slots, tokens = track.slots.flatten(0, 1), model.target_tokens(batch)
    ours = {
        "slots": track.slots,
        "masks_train": track.attention.unflatten(-1, model.grid),
        "target_token_id": tokens,
        "pred_token_id": model.trans_decoder(slots, tokens[:, :-1]),
        **model.loss(batch, 0),
    }
    best = model.dvae.word_logits(model.dvae.features(case["in/img"])).topk(2).values
    ours["token_margin_min"] = (best[:, 0] - best[:, 1]).min()
    if "in/exp_noise" in case:
        draws = model.noise.draws.flatten(0, 1)
        ours["recon_img"] = model.loss_and_pictures(slots, tokens, draws)[1]
    ours["loss"].backward()
    decomposition = model.eval().decompose(batch).validate()
    ours["masks_eval_last_s2"] = decomposition.masks[:, -1, :, ::2, 1::2]
    for name in case.tensors("out/"):
        close(case, name, ours[name])
    trained = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {name for name in case.info["frozen_parameters"] if not name.endswith(".self_attn_mask")}
    check_gradients(case, trained)


def check_steve_steps(case: Case, tmp_path: Path) -> None:
    model, params = build_steve(case), case.info["params"]
    groups = parameter_groups(model, params["lr"], params["dec_lr"])
    assert [len(group["params"]) for group in groups] == case.info["optimizer"]["group_sizes_trainable"]
    batch = {"video": case["in/img"] / 2 + 0.5, "token_id": case["in/token_id"]}
    check_steps(case, tmp_path, model, groups, batch, floor=0.0)


def check_token_decoder(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    model = TokenDecoder(
        config["vocab_size"], config["d_model"], config["n_head"], config["num_layers"], config["max_len"] + 1, 0.0
    )
    model.load_state_dict({key: value for key, value in case.tensors("state/").items() if "self_attn_mask" not in key})
    slots = case["in/slots"].requires_grad_()
    target = case["in/target"].flatten()
    features = model.features(slots, case["in/tokens"]).flatten(0, 1)
    loss = linear_cross_entropy(features, model.head.weight, target) / len(target)
    loss.backward()
    close(case, "loss", loss)
    close(case, "grad_slots", slots.grad)
    check_gradients(case, gradients_of(model))
    close(case, "logits", model(slots, case["in/tokens"]))
    model.eval()
    generated = model.generate(slots, with_logits=True)
    close(case, "generated", generated.tokens)
    close(case, "generated_logits", generated.logits)
    best = generated.logits.topk(2).values
    close(case, "generated_margin_min", (best[..., 0] - best[..., 1]).min())
    few = case["out/generated_temp"].shape[1]
    close(case, "generated_temp", model.generate(slots, steps=few).tokens)


CHECKS: dict[str, Check] = {
    "slotformer.base_slots.models.dVAE": check_dvae,
    "dVAE + dVAEMethod": check_dvae_steps,
    "slotformer.base_slots.models.STEVE": check_steve,
    "STEVE + STEVEMethod": check_steve_steps,
    "slotformer.base_slots.models.steve_transformer.STEVETransformerDecoder": check_token_decoder,
}
