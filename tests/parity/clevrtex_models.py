"""What the checks of all ClevrTex models share: published-size weights from formulas, gradients, trajectories."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clevrtex.framework.optim import build_optimizer, parse_rate
from core.nn.noise import Noise
from core.training.trainer import Controller
from tests.parity.golden import Case
from tests.parity.steps import trainer_by_hand

ToOriginal = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Renames parameters, or their gradients, to the names of the original."""


def uniform(count: int, key: int) -> np.ndarray:
    """U(j, key) for j = 1 .. count, the hash that the json of a published-size case states."""
    with np.errstate(over="ignore"):
        x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(6364136223846793005)
        x += np.uint64(key * 1442695040888963407 % 2**64)
        x ^= x >> np.uint64(33)
        x *= np.uint64(0xFF51AFD7ED558CCD)
        x ^= x >> np.uint64(33)
        x *= np.uint64(0xC4CEB9FE1A85EC53)
        x ^= x >> np.uint64(33)
    return (x >> np.uint64(11)).astype(np.float64) / 2**53


def published_state(case: Case) -> dict[str, Tensor]:
    """All parameters, and the buffers that have a stated value, by their original names."""
    offset = case.info["config"]["koff"]
    state = {}
    for name, given in case.info["parameters"].items():
        shape, count = given["shape"], int(np.prod(given["shape"]))
        if "value" in given:
            values = np.full(count, given["value"])
        else:
            values = given["center"] + given["amplitude"] * (2 * uniform(count, given["k"] + 1 + offset) - 1)
        dtype = getattr(torch, given.get("dtype", "float32"))
        state[name] = torch.from_numpy(values).to(torch.float32).to(dtype).reshape(shape)
    for name, given in case.info["buffers"].items():
        if "value" in given:
            dtype = getattr(torch, given["dtype"])
            state[name] = torch.as_tensor(given["value"], dtype=dtype).expand(given["shape"]).clone()
    return state


def published_image(case: Case) -> Tensor:
    config = case.info["config"]
    side, phase = config["resolution"], config["phase"]
    b, c, i, j = np.ogrid[: config["batch"], :3, :side, :side]
    rows, columns = 0.13 * i + 0.9 * c + b + phase, 0.17 * j - 0.5 * c + 2 * b + phase
    return torch.from_numpy(0.5 + 0.25 * np.sin(rows) + 0.25 * np.cos(columns)).float()


def published_noise(case: Case) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
    """The normal and the uniform draws in the order of the program."""
    normal = (
        torch.from_numpy(12**0.5 * (uniform(int(np.prod(shape)), 100001 + d) - 0.5)).float().reshape(shape)
        for d, shape in enumerate(case.info["noise_shapes"])
    )
    flat = (
        torch.from_numpy(uniform(int(np.prod(shape)), 200001 + d)).float().reshape(shape)
        for d, shape in enumerate(case.info["uniform_shapes"])
    )
    return normal, flat


def in_order(draws: Sequence[Tensor] | Iterator[Tensor]) -> Noise:
    """Gives the recorded draws one after the other, whatever they are called."""
    remaining = iter(draws)
    return lambda name, shape: next(remaining).reshape(shape)


class RecordedNoise:
    """The draws of every step of a trajectory: `at(step)` goes on with `noise_of(step)`."""

    count = 1

    def __init__(self, noise_of: Callable[[int], Noise]):
        self.noise_of = noise_of

    def at(self, step: int, device: torch.device) -> Noise:
        return self.noise_of(step)


def tolerance(case: Case, what: str) -> dict[str, float]:
    """The advised `rtol` and `atol` of `what` in the json's sentence, as keyword arguments."""
    text = re.search(rf"{what}[^;]*", case.info["tolerance"])
    assert text, f"{case.name}: no tolerance for {what!r} in {case.info['tolerance']!r}"
    found = {kind: float(value) for kind, value in re.findall(r"([ra]tol) ([\d.e+-]+)", text[0])}
    return {"rtol": 0.0, "atol": 0.0} | found


def check_summary(case: Case, name: str, ours: Tensor) -> None:
    """Mean, standard deviation, extremes, norm and 64 elements of a published-size output."""
    ours = ours.detach().double().flatten()
    picked = ours[np.floor(np.linspace(0, ours.numel() - 1, 64)).astype(np.int64)]
    stats = torch.stack((ours.mean(), ours.std(correction=0), ours.min(), ours.max(), ours.norm()))
    limits = tolerance(case, "stats and samples")
    for kind, value in (("stats", stats), ("samples", picked)):
        torch.testing.assert_close(
            value.float(), case[f"out/{name}_{kind}"], **limits, msg=lambda m, k=kind: f"{name}_{k}: {m}"
        )


def check_gradients(case: Case, model: nn.Module, to_original: ToOriginal, rtol: float, atol: float = 0.0) -> None:
    """Norm and sum of every parameter's gradient.

    Where it is zero but for rounding, below 1e-6 of the largest, ours need only be small too.
    """
    gradients = to_original(
        {
            name: torch.zeros_like(value) if value.grad is None else value.grad
            for name, value in model.named_parameters()
        }
    )
    norms = {key: value for key, value in case.tensors("grad/").items() if key not in case.info["params_without_grad"]}
    assert norms
    floor = 1e-6 * max(norms.values())
    for key, norm in norms.items():
        ours = gradients[key].double()
        if norm <= floor:
            assert ours.norm() <= 10 * floor, f"{key}: zero but for rounding in the original, here {ours.norm()}"
            continue
        limits = {"rtol": rtol, "atol": atol}
        torch.testing.assert_close(ours.norm().float(), norm.float(), **limits, msg=lambda m, k=key: f"{k}: {m}")
        if f"gradsum/{key}" in case:
            total, scale = case[f"gradsum/{key}"].double(), norm * ours.numel() ** 0.5
            torch.testing.assert_close(
                ours.sum(), total, rtol=0, atol=float(rtol * scale) + atol, msg=lambda m, k=key: f"sum {k}: {m}"
            )
    for key in case.info["params_without_grad"]:
        assert key not in gradients or not gradients[key].any(), key


def check_trajectory(
    case: Case,
    model: nn.Module,
    image: Tensor,
    noise_of: Callable[[int], Noise],
    to_original: ToOriginal,
    tmp_path: Path,
    controllers: Sequence[Controller] = (),
    after_step: Callable[[int, dict[str, Tensor]], None] = lambda index, terms: None,
) -> None:
    """Five steps of the training loop on one batch: losses, rates, other recorded terms, norms of the parameters.

    `noise_of` gets the index of the step. `after_step` gets it too, with the terms, for what only this model records.
    """
    config = case.info["config"]
    start, count = config.get("global_step0", 0), config["steps"]
    model.noise = RecordedNoise(lambda step: noise_of(step - start))
    trainer = trainer_by_hand(
        model,
        build_optimizer(model, config["optim"], config["learning_rate"]),
        start + count - 1,
        tmp_path,
        # The rate follows the optimiser's own count, which began at zero whatever the model's step.
        schedule=lambda step: parse_rate(config["lr"])(step - start),
        clip_norm=config["grad_clip"],
        controllers=controllers,
        first_step=start,
    )
    limits = tolerance(case, "(per-step values|loss)")
    for index in range(count):
        terms = trainer.step(start + index, {"image": image})
        torch.testing.assert_close(terms["loss"].detach().float(), case["out/loss_per_step"][index].float(), **limits)
        rate = trainer.optimizer.param_groups[0]["lr"]
        np.testing.assert_allclose(rate, float(case["out/lr_per_step"][index]), rtol=1e-6)
        after_step(index, terms)
    limits = tolerance(case, "final_norm")
    ours = to_original({name: value.detach() for name, value in model.named_parameters()})
    finals = case.tensors("final_norm/")
    assert finals
    for key, norm in finals.items():
        torch.testing.assert_close(ours[key].norm().float(), norm.float(), **limits, msg=lambda m, k=key: f"{k}: {m}")
