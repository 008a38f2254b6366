"""Small trainings of the ClevrTex experiments, and what they leave on disk."""

import json
from pathlib import Path

import torch
from torch import Tensor

from core.training.checkpoint import load

SMALL = {
    "slota": ("--slots", 4, "--decoder_grid", 2, "--learning_rate", 2e-3, "--lr", "warm(5)"),
    "iodine": ("--K", 3, "--z_size", 8, "--lstm_dim", 16, "--conv_channels", 8, "--inference_iters", 3),
    "monet": ("--n_slots", 3, "--n_blocks", 4, "--z_dim", 4),
    "effmorl": (
        "--num_slots",
        3,
        "--z_dim",
        8,
        "--refinement_curriculum",
        "[(-1,2),(4,1)]",
        "--lr",
        "",
        "--learning_rate",
        1e-3,
    ),
    "genesisv2": ("--slots", 4, "--learning_rate", 1e-3),
    "dtisprites": (
        *("--slots", 3, "--encoder", "small", "--freeze", 1, "--curriculum", 2),
        *("--epochs", None, "--lr", "", "--learning_rate", 3e-3),
    ),
    "spair": (
        *("--what_dim", 8, "--passf", 8, "--patch_shape", 8, "--nolarge"),
        *("--bg_dim", 4, "--learning_rate", 5e-3),
    ),
    "gnm": ("--z_what_dim", 8, "--learning_rate", 3e-4),
    "space": (),
    "marionette": ("--layer_size", 4, "--num_classes", 6, "--dim_z", 32),
}
"""Flags that make each model quick."""
# EfficientMORL begins with even grey, so near the mean of these pictures that a few steps do not show it learning.
FLAGS_OF_DATA = {"effmorl": "-bbg"}
FOLDERS = {"genesisv2": "g2", "dtisprites": "dtis"}


def train_words(model: str, data: Path, out: Path, *flags: object, size: int = 32) -> list[object]:
    """The README's command on small pictures, for the fixture `run`."""
    return [
        f"clevrtex/experiments/{model}.py",
        "run",
        "--data",
        f"clevrtex:full-crop-({size},{size}){FLAGS_OF_DATA.get(model, '')}",
        "--data_root",
        data,
        "--dir",
        out,
        "--workers",
        "no",
        "--quiet",
        *SMALL[model],
        *flags,
    ]


def folder_of(model: str, out: Path, tag: str = "test") -> Path:
    """The one run of that tag."""
    (found,) = out.glob(f"*/{FOLDERS.get(model, model)}/{tag}*")
    return found


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "scalars.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in rows(folder) if "loss" in row]


def weights(folder: Path, name: str = "last") -> dict[str, Tensor]:
    return load(folder / "checkpoints" / f"{name}.ckpt")["model"]


def assert_same_weights(found: Path, wanted: Path) -> None:
    ours, theirs = weights(found), weights(wanted)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
