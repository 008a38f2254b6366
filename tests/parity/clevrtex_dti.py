"""Checks of DTI-Sprites: transformations, selection, training, re-created sprites."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clevrtex.experiments.dtisprites import DTISprites as Experiment
from clevrtex.models.dti_clusters import THRESHOLD, RunningMean, unused_sprites
from clevrtex.models.dti_selection import visibility
from clevrtex.models.dti_transformations import KINDS, Regressors, gaussian_mask, soft_clamp
from clevrtex.models.dtisprites import DTISprites, Inference, Scene
from clevrtex.original.dtisprites import from_original, to_original
from core.nn.noise import Noise, ShardedNoise
from tests.parity.golden import Case, Check
from tests.parity.sprite_cases import check_gradient_norms, check_outputs, close_to_largest, constant_noise
from tests.parity.steps import trainer_by_hand

POOLS = {True: (1, 1), False: None}
CLAMPS = {"soft": 0.01, "soft0.1": 0.1, "clamp": 0.0, "diff": 0.0, "False": 1.0}
"""Slope beyond [0, 1] of each of their functions."""


@dataclass(frozen=True)
class ConstantNoise(ShardedNoise):
    """The draws of a case, at every step."""

    case: Case | None = None

    def at(self, step: int, device: torch.device) -> Noise:
        return constant_noise(self.case, uniform=("mask_noise",))


def build(case: Case) -> DTISprites:
    """The model of a case, after as many epochs as it states."""
    given, state = case.info["config"]["constructor"], case.tensors("state/")
    assert given["estimate_minimum"]
    assert given["pred_occlusion"]
    assert given["add_empty_sprite"]
    pool, milestones = given["with_pool"], [given[f"curriculum_learning{of}"] for of in ("", "_bkg", "_layer")]
    assert not milestones[2]
    model = DTISprites(
        image_size=tuple(state["bkg_params"].shape[2:]),
        num_slots=given["n_objects"],
        num_sprites=given["n_sprites"],
        num_backgrounds=given["n_backgrounds"],
        sprite_size=tuple(state["prototype_params"].shape[2:]),
        mask_std=given["gaussian_weights_std"],
        encoder={"default": "small"}.get(given["encoder_name"], given["encoder_name"]),
        pool=POOLS[pool] if isinstance(pool, bool) else tuple(pool),
        sprite_transformations=given["transformation_sequence"],
        sprite_milestones=milestones[0] or (),
        layer_transformations=given["transformation_sequence_layer"],
        background_transformations=given["transformation_sequence_bkg"],
        background_milestones=milestones[1] or (),
        freeze_epochs=given["freeze_sprite"],
        mask_noise=given["inject_noise"],
        greedy_rounds=given["greedy_algo_iter"],
        empty_penalty=given["lambda_empty_sprite"],
    )
    model.load_state_dict(from_original(state))
    model.noise = ConstantNoise(seed=0, case=case)
    return model.train(case.info["mode"].startswith("train"))


def gradients(model: DTISprites) -> dict[str, Tensor | None]:
    """By the original's names."""
    found = to_original({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    return {key: found.get(key) for key in to_original(dict(model.named_parameters()))}


def one_hot(model: DTISprites, chosen: Tensor) -> Tensor:
    """(L, K + 1, B)."""
    return torch.nn.functional.one_hot(chosen, model.num_sprites + 1).float().transpose(1, 2)


def everything(model: DTISprites, scene: Scene) -> tuple[Tensor, Tensor]:
    """All sprites in all slots, the empty one too: (L, K + 1, B, 3, H, W) and (L, K + 1, B, 1, H, W)."""
    which = torch.arange(model.num_sprites + 1).expand(model.num_slots, len(scene.covers), -1)
    rgb, masks = model.place(scene, which)
    return rgb.transpose(1, 2), masks.transpose(1, 2).unsqueeze(3)


def smallest_margin(model: DTISprites, image: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
    """Choices (L, B), and how close the second best ever came: whole pictures are made for every candidate."""
    rgb, masks = everything(model, scene)
    rgb, masks = rgb.transpose(1, 2), masks[:, :, :, 0].transpose(1, 2)
    num_slots, count, num_sprites = masks.shape[:3]
    candidates = range(num_sprites - 1 if model.is_frozen else num_sprites)
    penalty = torch.tensor([0.0 if model.is_frozen else model.empty_penalty] * (num_sprites - 1) + [0.0])
    entries = torch.cat((scene.backgrounds[0][:, None], torch.zeros_like(rgb[:, :, 0]).transpose(0, 1)), dim=1)
    own = torch.zeros_like(entries[:, :, 0])
    own[:, 0] = 1
    every, margins = torch.arange(count), []
    chosen = torch.zeros(num_slots, count, dtype=torch.long)
    for _ in range(model.greedy_rounds):
        for slot in range(num_slots):
            errors = []
            for k in candidates:
                entries[:, slot + 1], own[:, slot + 1] = rgb[slot, :, k], masks[slot, :, k]
                picture = (entries * visibility(own, scene.covers)[:, :, None]).sum(dim=1)
                errors.append((picture - image).square().flatten(1).mean(dim=1) + penalty[k])
            best, second = torch.stack(errors).sort(dim=0).values[:2]
            margins.append((second - best).min())
            chosen[slot] = torch.stack(errors).argmin(dim=0)
            entries[:, slot + 1], own[:, slot + 1] = rgb[slot, every, chosen[slot]], masks[slot, every, chosen[slot]]
    return chosen, torch.stack(margins).min()


def of_inference(model: DTISprites, found: Inference, scene: Scene) -> dict[str, Tensor]:
    """By the original's names."""
    class_prob = one_hot(model, found.chosen)
    rgb, masks = everything(model, scene)
    return {
        "distance": 1 - class_prob.flatten(0, 1).T,
        "canvas": found.recon,
        "class_prob": class_prob,
        "occ_grid": found.covers[:, 1:, 1:].permute(1, 2, 0),
        "tsf_bkgs": scene.backgrounds,
        "tsf_layers": rgb,
        "tsf_masks": masks,
        "layers.mask": found.visible.unsqueeze(2),
        "layers.patch": found.rgb,
        "loss": found.error.mean(),
    }


def check_forward(case: Case, tmp_path: Path) -> None:
    model, image = build(case), case["in/image"]
    model.set_epoch(case.info["config"]["epochs stepped before the case"])
    scene = model.describe(image, model.noise.at(0, image.device))
    found = model.explain(image, scene)
    with torch.no_grad():
        chosen, margin = smallest_margin(model, image, scene)
    assert torch.equal(found.chosen, chosen)
    check_outputs(case, of_inference(model, found, scene) | {"selection_margin": margin})
    found.error.mean().backward()
    check_gradient_norms(case, gradients(model))
    unused = {id(dict(model.named_parameters())[name]) for name in model.unused_parameters()}
    assert unused == {id(value) for value in model.parameters() if value.grad is None}
    check_outputs(case, to_original(model.state_dict()), "post_state/")


def check_steps(case: Case, tmp_path: Path) -> None:
    config, image, losses = case.info["config"], case["in/image"], case["out/loss_per_step"]
    model = build(case)
    model.set_epoch(config["epochs stepped before"])
    experiment = Experiment(slots=model.num_slots, legacy_encoder_steps=not config["duplicates removed"])
    schedule = experiment.rate_schedule(1000)
    trainer = trainer_by_hand(
        model,
        experiment.build_optimizer(model),
        len(losses) - 1,
        tmp_path,
        schedule=lambda step: schedule(step + config["schedule offset"]),
    )
    for step, (loss, rates) in enumerate(zip(losses, case["out/lr_per_step"])):
        found = trainer.step(step, {"image": image})["loss"]
        close_to_largest(f"loss {step}", found, loss.float(), case.info["loss_tolerance_per_step"][step])
        ours = torch.tensor([group["lr"] for group in trainer.optimizer.param_groups], dtype=torch.float64)
        torch.testing.assert_close(ours, rates, rtol=1e-6, atol=0)
    parameters = {name: value.detach() for name, value in to_original(model.state_dict()).items()}
    (excluded,) = (keys for text, keys in case.info["rounding"].items() if text.startswith("final_norm keys to excl"))
    norms = case.tensors("final_norm/")
    assert norms
    for key, norm in norms.items():
        if key not in excluded:
            torch.testing.assert_close(
                parameters[key].norm(), norm, rtol=2e-4, atol=0, msg=lambda m, k=key: f"{k}: {m}"
            )
    for key, value in case.tensors("final/").items():
        every = [full // part for full, part in zip(parameters[key].shape[-2:], value.shape[-2:])]
        ours = parameters[key][..., :: every[0], :: every[1]]
        torch.testing.assert_close(ours, value, rtol=0, atol=2e-3, msg=lambda m, k=key: f"{k}: {m}")


def check_modules(case: Case, tmp_path: Path) -> None:
    """Each transformation on its own; gradients are those of the sum of squares."""
    size = tuple(case.info["config"]["img_size_HW"])
    names = sorted({key.partition(".")[0] for key in case.tensors("state/")})
    for name in names:
        kind = KINDS[name.partition("_")[0]](size, "border" if name.endswith("border") else "zeros")
        state, given = case.tensors(f"state/{name}."), case.tensors(f"in/{name}.")
        regressors = Regressors((1,), given["features"].shape[1], kind.size)
        regressors.load_state_dict(
            {
                f"layers.{i}.{what}": state[f"regressor.{place}.{what}"][None]
                for i, place in enumerate((0, 3, 5))
                for what in ("weight", "bias")
            }
        )
        x, features = given["x"].requires_grad_(), given["features"].requires_grad_()
        beta = regressors(features)[0]
        y = kind(x[:, None], beta)[:, 0]
        y.square().sum().backward()
        ours = {"y": y, "beta": beta, "grad_x": x.grad, "grad_features": features.grad}
        theirs = case.tensors(f"out/{name}.")
        assert theirs.keys() == ours.keys()
        for key, value in theirs.items():
            close_to_largest(f"{name}.{key}", ours[key].detach(), value, 1e-4)
        for key, norm in case.tensors(f"grad/{name}.").items():
            _, place, what = key.split(".")
            gradient = getattr(regressors.layers[(0, 3, 5).index(int(place))], what).grad
            close_to_largest(f"{name}.{key}", gradient.norm(), norm, 1e-4)
    assert {name.partition("_")[0] for name in names} == KINDS.keys() - {"identity"}
    for name, slope in CLAMPS.items():
        close_to_largest(name, soft_clamp(case["in/clamp.x"], slope), case[f"out/clamp.{name}"], 1e-6)
    gaussian = case["out/gaussian"]
    close_to_largest("gaussian", gaussian_mask(*gaussian.shape[1:], std=4)[None], gaussian, 1e-6)


def check_reassignment(case: Case, tmp_path: Path) -> None:
    model = build(case)
    model.optimizer = Experiment(slots=model.num_slots).build_optimizer(model)
    for parameter in model.parameters():
        model.optimizer.state[parameter] = {"exp_avg": torch.zeros_like(parameter)}
    moments = model.optimizer.state[model.masks]
    for moment in ("exp_avg", "exp_avg_sq"):
        moments[moment] = case[f"in/adam_{moment}_mask"]
    targets, source = unused_sprites(case["in/proportions"][:-1])
    assert (targets, source) == (case["out/reassigned"].tolist(), int(case["out/source"]))
    assert abs(THRESHOLD / model.num_sprites / float(case["out/threshold"]) - 1) < 1e-6
    model.copy_sprite(source, targets)
    for moment in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(moments[moment], case[f"out/adam_{moment}_mask"])
    ours = to_original(model.state_dict())
    for key, value in case.tensors("out/after.").items():
        close_to_largest(key, ours[key], value, 1e-6)
    for key, norm in case.tensors("out/after_norm.").items():
        if not key.endswith(".identity"):  # a constant
            close_to_largest(key, ours[key].norm(), norm, 1e-6)


def check_meters(case: Case, tmp_path: Path) -> None:
    values, counts = case["in/values"], case["in/counts"]
    loss, weighted = RunningMean(), RunningMean()
    for value, count in zip(values, counts.tolist()):
        loss.update(value)
        weighted.update(value, count)
    ours = {"avg_loss": loss.mean(), "avg_a": weighted.mean(), "sum_a": weighted.total, "count_a": weighted.weight}
    for name, value in ours.items():
        torch.testing.assert_close(value, case[f"out/{name}"].double(), rtol=0, atol=1e-12)


CHECKS: dict[str, Check] = {
    "dtisprites_": check_forward,
    "dtisprites-traj": check_steps,
    "dti_modules": check_modules,
    "dti_reassign": check_reassignment,
    "dti_metrics": check_meters,
}
