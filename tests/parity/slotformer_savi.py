"""Checks of SlotFormer's SAVi models, their parts, and the schedules of its trainer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.nn.noise import Noise
from core.nn.slot_attention import SlotAttention
from core.nn.soft_position import SoftPositionEmbed
from core.training.schedules import cosine_with_restarts
from slotformer import original
from slotformer.base_slots.models.predictors import (
    Memory,
    ResidualMLPPredictor,
    RNNPredictorWrapper,
    TransformerPredictor,
)
from slotformer.base_slots.models.savi import StoSAVi
from slotformer.framework.annealing import cosine_anneal, loss_decay_factor, temporal_weights
from tests.parity.clevrtex_models import RecordedNoise, in_order
from tests.parity.golden import Case, Check
from tests.parity.steps import trainer_by_hand


def limits(case: Case, of: str = "out") -> dict[str, float]:
    given = case.info["tolerance"][of]
    return {"rtol": given["rtol"], "atol": given.get("atol", 0.0)}


def close(case: Case, name: str, ours: Tensor) -> None:
    theirs = case[f"out/{name}"]
    torch.testing.assert_close(
        ours.detach().to(theirs.dtype), theirs, **limits(case), msg=lambda text: f"{name}: {text}"
    )


def check_gradients(case: Case, gradients: Mapping[str, Tensor | None], prefix: str = "grad/") -> None:
    """Norms of the gradients of all parameters, ours under the original's names."""
    norms = case.tensors(prefix)
    assert norms
    total = torch.stack([norm.double() for norm in norms.values()]).norm()
    absent = case.info.get("trainable_parameters_without_gradient", [])
    assert set(gradients) | set(absent) >= set(norms)
    for key, norm in norms.items():
        value = gradients.get(key)
        ours = torch.zeros((), dtype=torch.float64) if value is None else value.double().norm()
        torch.testing.assert_close(
            ours,
            norm.double(),
            rtol=case.info["tolerance"]["grad"]["rtol"],
            atol=1e-6 * float(total),
            msg=lambda text, k=key: f"{k}: {text}",
        )
    for key in absent:
        assert gradients.get(key) is None, key


def gradients_of(model: nn.Module, prefix: str = "") -> dict[str, Tensor | None]:
    return {prefix + name: value.grad for name, value in model.named_parameters()}


def check_slot_attention(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    module = SlotAttention(
        config["in_features"], config["slot_size"], config["mlp_hidden_size"], config["num_iterations"], config["eps"]
    )
    module.load_state_dict(case.tensors("state/"))
    inputs, begin = case["in/inputs"].requires_grad_(), case["in/slots"].requires_grad_()
    slots, attention = module(inputs, begin)
    assert slots.shape[1] == config["num_slots"]
    (slots * case["in/weight"]).sum().backward()
    close(case, "slots", slots)
    close(case, "grad_inputs", inputs.grad)
    close(case, "grad_slots", begin.grad)
    if "out/masks" in case:
        close(case, "masks", attention)
    check_gradients(case, gradients_of(module))


def check_soft_position(case: Case, tmp_path: Path) -> None:
    module = SoftPositionEmbed(case.info["config"]["hidden_size"], tuple(case.info["config"]["resolution"]))
    state = case.tensors("state/")
    if "grid" in state:
        torch.testing.assert_close(module.grid, state.pop("grid"))
    module.load_state_dict(state)
    close(case, "y", module(case["in/x"]))


def build_predictor(config: dict[str, Any]) -> nn.Module:
    options = {key: value for key, value in config.items() if key not in ("cls", "base")}
    if config["cls"] == "TransformerPredictor":
        return TransformerPredictor(**options, dropout=0.0)
    if config["cls"] == "ResidualMLPPredictor":
        return ResidualMLPPredictor(**options)
    assert config["cls"] == "RNNPredictorWrapper"
    return RNNPredictorWrapper(build_predictor(config["base"]), **options)


def check_predictors(case: Case, tmp_path: Path) -> None:
    gradients: dict[str, Tensor | None] = {}
    for name, config in case.info["config"].items():
        predictor = build_predictor(config)
        predictor.load_state_dict(case.tensors(f"state/{name}."))
        inputs, outputs, memory = case["in/x"].requires_grad_(), [], None
        for slots in inputs.unbind(1):
            predicted, memory = predictor(slots, memory)
            outputs.append(predicted)
        found = torch.stack(outputs, dim=1)
        (found * case["in/weight"]).sum().backward()
        close(case, f"{name}/y", found)
        close(case, f"{name}/grad_x", inputs.grad)
        gradients |= gradients_of(predictor, f"{name}.")
        if f"out/{name}/after_burnin" in case:
            check_burnin(case, name, predictor)
    if case.tensors("grad/"):
        check_gradients(case, gradients)


def check_burnin(case: Case, name: str, predictor: nn.Module) -> None:
    frames = 3  # of the burn-in, as the json describes it
    assert f"after burnin(x[:, :{frames}])" in case.info["outputs"][f"out/{name}/burnin_h"]["meaning"]
    memory: Memory = predictor.burnin(case["in/x"][:, :frames])
    for key, value in zip(("burnin_h", "burnin_c"), memory.hidden):
        close(case, f"{name}/{key}", value)
    close(case, f"{name}/after_burnin", predictor(case["in/x"][:, frames], memory)[0])


def build(case: Case, dropout: float = 0.0) -> StoSAVi:
    arguments: dict[str, Any] = {"dropout": dropout, **case.info["loss_weights"]}
    for key, value in case.info["config"].items():
        arguments |= value if isinstance(value, dict) else {key: value}
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    model = StoSAVi(**tuples)
    theirs = case.tensors("state/")
    model.load_state_dict(original.import_state(model, theirs))
    exported = original.export_state(model)
    assert {key: value.shape for key, value in exported.items()} == {key: value.shape for key, value in theirs.items()}
    for key, value in exported.items():
        assert key.startswith("prior_slot_layer.") or torch.allclose(value, theirs[key], rtol=0, atol=1e-6), key
    return model


def noise_of(case: Case) -> Noise:
    if "in/kernel_eps" in case:
        return in_order(case["in/kernel_eps"].unbind(1))
    return lambda name, shape: torch.zeros(shape)


def check_savi(case: Case, tmp_path: Path) -> None:
    model, video = build(case), case["in/img"]
    model.noise = RecordedNoise(lambda step: noise_of(case))
    track = model.track(video, noise_of(case))
    pictures = model.decode(track.slots)
    stride = pictures.recon.shape[-1] // case["out/post_masks_b0"].shape[-1]
    ours = {
        "post_slots": track.slots,
        "kernel_dist": track.origins,
        "encoder_out_s16": model.encode(video).flatten(0, 1)[:, ::16],
        "post_recon_combined": pictures.recon,
        "post_recons_b0_last": pictures.rgb[0, -1, :, :, ::stride, ::stride],
        "post_masks_b0": pictures.masks[0, :, :, None, ::stride, ::stride],
        **model.loss({"video": video / 2 + 0.5}, 0),
    }
    ours["eval_post_slots"] = model.eval().extract({"video": video / 2 + 0.5}, noise_of(case))
    for name in case.tensors("out/"):
        close(case, name, ours[name])
    ours["loss"].backward()
    check_gradients(case, gradients_of(model))


def check_trajectory(case: Case, tmp_path: Path) -> None:
    model = build(case)
    model.noise = RecordedNoise(lambda step: noise_of(case))
    groups = [{"params": list(model.parameters()), "lr": case.info["params"]["lr"]}]
    check_steps(case, tmp_path, model, groups, {"video": case["in/img"] / 2 + 0.5}, floor=0.01)


def check_steps(
    case: Case,
    tmp_path: Path,
    model: nn.Module,
    groups: list[dict[str, Any]],
    batch: dict[str, Tensor],
    floor: float,
    before_step: Callable[[int], None] = lambda index: None,
) -> None:
    """Steps of the training loop on one batch: terms, rates, norms of gradients and of the final parameters."""
    params, schedule = case.info["params"], case.info["schedule"]
    losses, rates = case["out/loss_per_step"], case["out/lr_per_step"]
    assert params["optimizer"] == "Adam"
    trainer = trainer_by_hand(
        model.train(),
        torch.optim.Adam(groups, weight_decay=params["weight_decay"]),
        len(losses) - 1,
        tmp_path,
        schedule=cosine_with_restarts(schedule["total_steps"], schedule["warmup_steps"], floor),
        clip_norm=params["clip_grad"] if params["clip_grad"] > 0 else None,
        accumulate=params["grad_accum_steps"],
    )
    recorded = [name for name in case.tensors("out/") if name.endswith("loss_per_step")]
    found: dict[str, list[float]] = {name: [] for name in recorded}
    for index in range(len(losses)):
        before_step(index)
        terms = trainer.step(index, batch)
        for name in recorded:
            found[name].append(float(terms[name.removesuffix("_per_step")]))
        used = [group["lr"] for group in trainer.optimizer.param_groups]
        np.testing.assert_allclose(used, rates[index], rtol=case.info["tolerance"]["lr_per_step"]["rtol"])
        if "out/grad_norm_per_step" in case:
            rtol = case.info["tolerance"]["grad_norm_per_step"]["rtol"]
            np.testing.assert_allclose(trainer.grad_norm, case["out/grad_norm_per_step"][index], rtol=rtol)
    for name, values in found.items():
        theirs = case[f"out/{name}"].numpy()
        np.testing.assert_allclose(values, theirs, **case.info["tolerance"]["loss_per_step"], err_msg=name)
    ours, theirs = np.array(found["loss_per_step"]), losses.numpy()
    np.testing.assert_allclose(ours - ours[0], theirs - theirs[0], rtol=0.02, atol=2e-7 * theirs[0])
    state = original.export_state(model)
    for name, norm in case.tensors("out/final_norm/").items():
        if not name.startswith("prior_slot_layer."):
            value = state[name].double().norm()
            torch.testing.assert_close(
                value, norm, **limits(case, "final_norm"), msg=lambda text, k=name: f"{k}: {text}"
            )


def check_schedules(case: Case, tmp_path: Path) -> None:
    for name, config in case.info["config"]["lr"].items():
        theirs, highest = case[f"out/{name}"].numpy(), np.atleast_1d(config["max_lr"])
        floors = np.atleast_1d(config["min_lr"]) / highest
        factor = cosine_with_restarts(
            config["first_cycle_steps"],
            config["warmup_steps"],
            floors.tolist() if len(highest) > 1 else float(floors[0]),
            config.get("cycle_mult", 1.0),
            config.get("gamma", 1.0),
            restarts=config["cls"] == "CosineAnnealingWarmupRestarts",
        )
        ours = np.stack([np.atleast_1d(factor(step)) * highest for step in range(config["n"])])
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15, err_msg=name)
    for name in ("gumbel_tau", "cosine_anneal"):
        config = case.info["config"][name]
        values = config["start_value"], config["final_value"], config["final_step"], config["start_step"]
        theirs = case[f"out/{name}"].numpy()
        ours = [cosine_anneal(step, *values) for step in range(len(theirs))]
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12, err_msg=name)
    theirs = case["out/loss_decay_factor"].numpy()
    words = case.info["outputs"]["out/loss_decay_factor"]["meaning"].split()
    total, share = (float(words[words.index(word) + 1].strip(",;")) for word in ("steps", "loss_decay_pct"))
    ours = [loss_decay_factor(step, share * total) for step in range(len(theirs))]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    for factor, theirs in case.tensors("out/temporal_weights_").items():
        torch.testing.assert_close(temporal_weights(float(factor), len(theirs)), theirs, **limits(case))


CHECKS: dict[str, Check] = {
    "slot-attention": check_slot_attention,
    "soft-position-embed": check_soft_position,
    "predictors": check_predictors,
    "savi-obj3d": check_savi,
    "savi-phyre": check_savi,
    "stosavi-clevrer": check_savi,
    "StoSAVi + SAViMethod": check_trajectory,
    "schedules": check_schedules,
}
