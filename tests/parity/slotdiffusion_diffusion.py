"""Checks of SlotDiffusion's denoising: UNet, schedules, samplers, average of weights, and the models around them."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slotdiffusion.original  # noqa: F401 (makes slotformer.original know the models)
from core.metrics.segmentation import hard_labels, segmentation_scores
from core.nn.noise import Noise
from core.training.schedules import cosine_with_restarts
from slotdiffusion.models.ancestral import ancestral_step, posterior_mean
from slotdiffusion.models.average import WeightAverage
from slotdiffusion.models.ddim import ddim_steps, ddim_timesteps
from slotdiffusion.models.dpm_solver import inner_ratios, orders_of, outer_times
from slotdiffusion.models.latent_diffusion import LatentDiffusion, build_unet
from slotdiffusion.models.noise_schedule import NoiseSchedule, make_betas
from slotdiffusion.models.sa_diffusion import SADiffusion
from slotdiffusion.models.savi_diffusion import SAViDiffusion
from slotdiffusion.models.unet import time_embedding
from slotformer import original
from slotformer.base_slots.models.encoder import ClipState
from slotformer.base_slots.models.steve import parameter_groups
from tests.parity.clevrtex_models import RecordedNoise, in_order
from tests.parity.golden import Case, Check
from tests.parity.slotdiffusion_cases import check_gradients, check_steps, close, gradients_of

OF_TRAINING = {"optimizer", "lr", "dec_lr", "min_lr", "total_steps", "warmup_steps", "clip_grad"}
"""Entries of a case's configuration that are no arguments of the model."""


def without_dropout(dec_dict: dict[str, Any]) -> dict[str, Any]:
    return {**dec_dict, "unet_dict": {**dec_dict["unet_dict"], "dropout": 0.0}}


def load(model: nn.Module, case: Case) -> None:
    """Import the recorded weights, and see that an export gives them back."""
    theirs = case.tensors("state/")
    for key, dtype in case.info.get("state_dtypes_not_float32", {}).items():
        theirs[key] = theirs[key].to(getattr(torch, dtype))
    model.load_state_dict(original.import_state(model, theirs))
    ours = original.export_state(model)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype, key
        torch.testing.assert_close(value, theirs[key], rtol=1e-6, atol=1e-7, msg=lambda text, k=key: f"{k}: {text}")


def check_unet(case: Case, tmp_path: Path) -> None:
    model = build_unet({**case.info["config"], "dropout": 0.0})
    model.load_state_dict(case.tensors("state/"))
    slots = model.project(case["in/context"])
    found = model(case["in/x"], case["in/t"], slots)
    loss = F.mse_loss(found, case["in/target"])
    loss.backward()
    check_gradients(case, gradients_of(model))
    described = re.search(r"t = \[(.+?)\]", case.info["out"]["eps_fractional_t"]["meaning"])
    times = torch.tensor([float(time) for time in described[1].split(",")])
    ours = {
        "eps": found,
        "loss": loss,
        "t_emb": time_embedding(case["in/t"], model.model_channels),
        "eps_fractional_t": model(case["in/x"], times, model.project(case["in/context"])),
    }
    for name in case.tensors("out/"):
        close(case, name, ours[name])


def build_decoder(case: Case, snap: bool = True, **settings: Any) -> LatentDiffusion:
    """The decoder of a case, with `settings` of its diffusion; it corrects estimates if told to `snap`."""
    config = without_dropout(case.info["config"])
    config["diffusion_dict"] = {**config["diffusion_dict"], **settings}
    model = LatentDiffusion(**config, as_original=True)
    load(model, case)
    if not snap:
        model._correction = lambda sampler: lambda clean: clean
    return model


def losses(case: Case, model: LatentDiffusion, clean: Tensor) -> Tensor:
    return model.loss_at(clean, case["in/slots"], case["in/t"], case["in/noise"])


def check_ldm(case: Case, tmp_path: Path) -> None:
    model = build_decoder(case)
    clean = model.clean({"image": case["in/img"] / 2 + 0.5})
    noisy = model.noisy(clean, case["in/t"], case["in/noise"])
    pred = model.model(noisy, case["in/t"], model.model.condition(case["in/slots"]))
    for name, value in (("x0", clean), ("x_t", noisy), ("pred", pred)):
        close(case, name, value)
    for target in case.tensors("out/denoise_loss_"):
        close(case, f"denoise_loss_{target}", losses(case, build_decoder(case, pred_target=target), clean))
    losses(case, model, clean).backward()
    check_gradients(case, gradients_of(model))
    model.eval()
    context, start = case["in/slots"][: len(case["in/x_T"])], case["in/x_T"]
    checked = set()
    for name in case.tensors("out/"):
        if found := re.fullmatch(r"(dpm|ddim)(\d+)(_\w+?)?_(samples|intermediates|decoded)", name):
            check_sampling(case, name, *found.groups(), context, start)
            checked.add(name)
    check_ancestral_step(case, model)
    assert {name for name in case.tensors("out/") if name.startswith(("dpm", "ddim"))} == checked


def check_sampling(
    case: Case, name: str, sampler: str, steps: str, how: str | None, what: str, context: Tensor, start: Tensor
) -> None:
    """An output called by a sampler, the number of its steps, perhaps how it differs from the default, and a result."""
    options: dict[str, Any] = {"sampler": sampler, "steps": int(steps)}
    draws, settings, snap = [start], {}, True
    for word in (how or "").split("_")[1:]:
        if word in ("eps", "x0", "v"):
            settings["pred_target"] = word
        elif word == "noquant":
            snap = False
        elif found := re.fullmatch(r"eta(\d)", word):
            options["eta"] = float(found[1])
            draws += case["in/ddim_step_noise"]
        elif word == "same":
            options["same_noise"] = True
            draws = [case["in/x_T_shared"]]
        elif word == "multistep":
            options["sampler"] = "dpm_multistep"
        else:
            assert word in ("noise", "order2"), word
    model = build_decoder(case, snap, **settings).eval()
    states = model.sample_states(context, in_order(draws), **options)
    if what == "intermediates":
        close(case, name, torch.stack(states))
    else:
        close(case, name, states[-1] if what == "samples" else model.decode(states[-1]))


def check_ancestral_step(case: Case, model: LatentDiffusion) -> None:
    """Steps of single pictures, each at a time of its own."""
    described = re.search(r"t ?= ?\[([\d, ]+)\]", case.info["out"]["ancestral_step"]["meaning"])
    times = [int(time) for time in described[1].split(",")]
    shared = [case["in/x_T_shared"]] if "in/x_T_shared" in case else []
    states = torch.cat([case["in/x_T"], *shared])
    draws = case["in/ancestral_noise"] if "in/ancestral_noise" in case else case["in/noise"]
    rows = [(states[[row]], time, case["in/slots"][[row]], draws[[row]]) for row, time in enumerate(times)]
    found: dict[str, list[Tensor]] = {"ancestral_step": [], "ancestral_mean": [], "ancestral_logvar": []}
    with torch.no_grad():
        for state, time, context, draw in rows:
            estimate = model.estimator(context, model._correction("ancestral"))
            found["ancestral_mean"].append(posterior_mean(state, time, model.schedule, estimate))
            step = ancestral_step(state, time, model.schedule, estimate, in_order([draw]))
            found["ancestral_step"].append(step)
            found["ancestral_logvar"].append(torch.tensor([model.schedule.posterior_log_variance[time]]))
    for name, values in found.items():
        if f"out/{name}" in case:
            close(case, name, torch.cat(values).float())


def check_image_space(case: Case, tmp_path: Path) -> None:
    model = build_decoder(case)
    clean = model.clean({"image": case["in/img"] / 2 + 0.5})
    torch.testing.assert_close(clean, case["in/img"], rtol=0, atol=1e-6)
    loss = losses(case, model, clean)
    close(case, "denoise_loss", loss)
    loss.backward()
    check_gradients(case, gradients_of(model))
    with torch.no_grad(), model.average_scope():
        close(case, "denoise_loss_ema", losses(case, model, clean))
    close(case, "denoise_loss", losses(case, model.eval(), clean))
    for name in case.tensors("out/"):
        if found := re.fullmatch(r"(dpm|ddim)(\d+)_samples", name):
            options = {"sampler": found[1], "steps": int(found[2])}
            close(case, name, model.sample(case["in/slots"], in_order([case["in/x_T"]]), **options))
    check_ancestral_step(case, model)


def check_schedules(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    theirs, ours = case.tensors("out/"), {}
    for name, *numbers in config["sets"]:
        ours[f"betas_{name}"] = make_betas(name, config["timesteps"], *numbers)
    described = re.search(r"\((\w+) ([\d.]+)\.\.([\d.]+)\)", case.info["out"]["buf_betas"]["meaning"])
    schedule = NoiseSchedule(make_betas(described[1], config["timesteps"], float(described[2]), float(described[3])))
    ours |= {f"buf_{name}": value.numpy() for name, value in schedule.buffers().items()}
    times = theirs["vp_t"].double().numpy()
    log_alpha, log_snr = schedule.log_alpha(times), schedule.log_snr(times)
    ours |= {
        "vp_t": times,
        "vp_log_alpha": log_alpha,
        "vp_alpha": np.exp(log_alpha),
        "vp_std": np.exp(log_alpha - log_snr),
        "vp_lambda": log_snr,
        "vp_inverse_lambda": schedule.time_of(log_snr),
    }
    for name in theirs:
        if found := re.fullmatch(r"ddim_t_(\w+)_(\d+)", name):
            grid = ddim_timesteps(config["timesteps"], int(found[2]), found[1])
            steps = ddim_steps(schedule, grid, eta=1.0)[::-1]
            ours |= {
                name: grid,
                f"ddim_sigma_{found[2]}": np.array([step.of_draw for step in steps]),
                f"ddim_alpha_{found[2]}": np.array([step.moment.alpha**2 for step in steps]),
                f"ddim_alpha_prev_{found[2]}": np.array([step.of_clean**2 for step in steps]),
            }
        if found := re.fullmatch(r"dpm(\d+)_orders", name):
            orders = orders_of(int(found[1]))
            grid = outer_times(schedule, orders)
            ratios = [inner_ratios(schedule, *step) for step in zip(grid[:-1], grid[1:], orders)]
            ours |= {name: np.array(orders), f"dpm{found[1]}_outer_t": grid}
            for number in (1, 2):
                known = [step[number - 1] if len(step) >= number else 0.0 for step in ratios]
                ours[f"dpm{found[1]}_r{number}"] = np.array(known)
    for name in theirs:
        # What follows from float32 tables in the original is as exact as these are.
        close(case, name, torch.as_tensor(ours[name]))


def check_average(case: Case, tmp_path: Path) -> None:
    start, config = case.tensors("in/init/"), case.info["config"]
    trained = case.tensors("in/step0/")
    holder = nn.Module()
    for name, value in start.items():
        place, _, last = name.rpartition(".")
        owner = holder
        for word in filter(None, place.split(".")):
            if not hasattr(owner, word):
                owner.add_module(word, nn.Module())
            owner = owner.get_submodule(word)
        owner.register_parameter(last, nn.Parameter(value.clone(), requires_grad=name in trained))
    average = WeightAverage(holder, config["decay"])
    parameters = dict(holder.named_parameters())
    for number in range(config["updates"]):
        with torch.no_grad():
            for name, value in case.tensors(f"in/step{number}/").items():
                parameters[name].copy_(value)
        average.update(holder)
        for name in case.tensors(f"out/after{number + 1}/"):
            close(case, f"after{number + 1}/{name}", average.state_dict()[name])
    assert average.state_dict().keys() == case.tensors("out/after1/").keys()


def check_rates(case: Case, tmp_path: Path) -> None:
    limits = {key: case.info["tolerance"][key] for key in ("rtol", "atol")}
    for name, rates, lowest, total, warmup in case.info["config"]["cases"]:
        rates, theirs = np.atleast_1d(rates), case[f"out/lr_{name}"].numpy()
        factor = cosine_with_restarts(total, warmup, [lowest / rate for rate in rates])
        ours = np.stack([np.array(factor(step)) * rates for step in range(len(theirs))])
        np.testing.assert_allclose(ours, theirs, **limits, err_msg=name)


def build_model(case: Case, kind: type[nn.Module]) -> SAViDiffusion:
    arguments: dict[str, Any] = {}
    for key, value in case.info["config"].items():
        if key == "dec_dict":
            arguments[key] = without_dropout(value)
        elif key not in OF_TRAINING:
            arguments |= value if isinstance(value, dict) else {key: value}
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    if kind is SAViDiffusion:
        arguments["dropout"] = 0.0
    model = kind(**arguments, as_original=True)
    load(model, case)
    return model


def recorded(times: Tensor, noise: Tensor, num_steps: int) -> Noise:
    """The draws of a step; times as the normal numbers that give them."""
    normal = torch.special.ndtri((times.double() + 0.5) / num_steps).float()
    draws = {"t": normal, "noise": noise}
    return lambda name, shape: draws[name].view(shape)


def check_model(case: Case, tmp_path: Path, kind: type[nn.Module]) -> None:
    model, images = build_model(case, kind), case["in/img"]
    steps = len(model.dm_decoder.schedule)
    model.noise = RecordedNoise(lambda step: recorded(case["in/t"], case["in/noise"], steps))
    is_video = images.ndim == 5
    video, batch = (images if is_video else images[:, None]), {"video" if is_video else "image": images / 2 + 0.5}
    track = model.track(video, in_order([]))
    masks = track.attention.unflatten(-1, model.grid)
    loss = model.loss(batch, 0)["loss"]
    cached = model.dm_decoder.vae.vqvae.encode(images)
    torch.testing.assert_close(model.loss({**batch, "latents": cached}, 0)["loss"], loss)
    loss.backward()
    check_gradients(case, gradients_of(model))
    features = model.encode(video)[:, 0]
    model.eval()
    later = model.track(video, in_order([])).slots
    resized = model.segment(batch)
    labels = hard_labels(resized)
    ours = {
        "slots": track.slots if is_video else track.slots[:, 0],
        "masks": masks if is_video else masks[:, 0],
        "denoise_loss": loss,
        "eval_slots": later,
        "eval_seg": labels,
        "eval_masks_frame0": resized[:, 0],
        "encoder_out_sample": features[:, ::16],
        "eval_denoise_loss": model.loss(batch, 0)["denoise_loss"],
    }
    if "out/eval_split_slots" in case:
        first = model.track(video[:, :1], in_order([]))
        rest = model.track(video[:, 1:], in_order([]), ClipState(first.slots[:, -1], first.state.memory))
        ours["eval_split_slots"] = torch.cat((first.slots, rest.slots), dim=1)
    if "in/gt_masks" in case:
        scores = segmentation_scores(case["in/gt_masks"], labels, as_original=True)
        ours |= {f"eval_{name}": value.nanmean() for name, value in scores.items()}
    for name, theirs in case.tensors("out/").items():
        close(case, name, ours[name][: len(theirs)] if theirs.ndim else ours[name])


def check_video_model(case: Case, tmp_path: Path) -> None:
    if "out/loss_per_step" not in case:
        check_model(case, tmp_path, SAViDiffusion)
        return
    model, config = build_model(case, SAViDiffusion), case.info["config"]
    steps = len(model.dm_decoder.schedule)
    model.noise = RecordedNoise(lambda step: recorded(case["in/t"][step], case["in/noise"][step], steps))
    groups = parameter_groups(model, config["lr"], config["dec_lr"], "dm_decoder")
    check_steps(case, tmp_path, model, groups, {"video": case["in/img"] / 2 + 0.5})
    close(case, "slots_after", model.track(case["in/img"], in_order([])).slots)


CHECKS: dict[str, Check] = {
    "unet": check_unet,
    "ldm": check_ldm,
    "cond-ddpm": check_image_space,
    "schedules": check_schedules,
    "ema": check_average,
    "lr-schedule": check_rates,
    "savi-diffusion": check_video_model,
    "sa-diffusion": partial(check_model, kind=SADiffusion),
}
