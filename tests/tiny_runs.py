"""Trainings of a few seconds, started as a user starts them, and what they leave on disk."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.training.checkpoint import State, load, save

ROOT = Path(__file__).parents[1]
NET = ("Net.z_size=8", "Net.K=3")


def train_words(data: Path, out: Path, *overrides: str, model: str = "EMORL") -> list[str]:
    """A training on Tetrominoes for the fixture `run`: steps 0 to 5, a checkpoint every two, every step logged."""
    return [
        "emorl/train.py",
        "with",
        f"emorl/configs/train/tetrominoes/{model}.json",
        f"dataset.data_path={data}",
        f"training.out_dir={out}",
        *NET,
        "training.run_suffix=tiny",
        "training.batch_size=2",
        "training.iters=5",
        "training.checkpoint_freq=2",
        "training.tensorboard_freq=1",
        "training.num_workers=0",
        "training.tqdm=False",
        *overrides,
    ]


def eval_words(
    data: Path, out: Path, checkpoint: str, *overrides: str, model: str = "EMORL", kind: str = "ARI_MSE_KL"
) -> list[str]:
    """An evaluation of such a training, by default on eight pictures."""
    return [
        "emorl/eval.py",
        "with",
        f"emorl/configs/test/tetrominoes/{kind}/{model}.json",
        f"dataset.data_path={data}",
        f"test.out_dir={out}",
        f"test.checkpoint={checkpoint}",
        "test.num_images_to_process=8",
        *NET,
        *overrides,
    ]


def write_lively(out: Path, step: int) -> str:
    """Write a checkpoint like that of `step`, with weights at which masks and pictures differ from slot to slot."""
    (path,) = out.glob(f"weights/*-state-{step}.pth")
    state = load(path)
    generator = torch.Generator().manual_seed(0)
    for value in state["model"].values():
        if value.ndim > 1:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
    save(out / "weights/lively.pth", state)
    return "lively.pth"


def state_of(out: Path, step: int) -> State:
    return load(out / f"weights/tiny-state-{step}.pth")


def scalar_lines(out: Path) -> str:
    """The JSON lines of the newest record of a run."""
    return max(out.glob("tb/*/scalars.jsonl"), key=lambda path: path.stat().st_mtime_ns).read_text()


def scalars(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in scalar_lines(out).splitlines()]


def evaluated(out: Path, checkpoint: str) -> dict[str, Any]:
    """What the evaluation of `checkpoint` wrote."""
    (file,) = out.glob(f"results/*/{checkpoint}-seed=*/ARI_MSE_KL.json")
    return json.loads(file.read_text())


def tensors(state: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors in nested containers, by path."""
    if isinstance(state, Tensor):
        return {name: state}
    if isinstance(state, dict | list | tuple):
        entries = state.items() if isinstance(state, dict) else enumerate(state)
        return {key: value for part, entry in entries for key, value in tensors(entry, f"{name}/{part}").items()}
    return {}


def assert_same_weights(found: State, wanted: State, atol: float = 0.0) -> None:
    """Weights and Adam's state of two checkpoints agree; by default bit for bit."""
    assert found["step"] == wanted["step"]
    for part in ("model", "optimizer"):
        left, right = tensors(found[part]), tensors(wanted[part])
        assert left.keys() == right.keys()
        for key, value in right.items():
            same = torch.equal(left[key], value) if atol == 0 else torch.allclose(left[key], value, rtol=0, atol=atol)
            assert same, f"{part}{key} differs by {(left[key] - value).abs().max():.3g}"
