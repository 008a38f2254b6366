"""Small trainings of OSRT, started as a user starts them, and what they leave in the folder of their configuration."""

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from core.training.checkpoint import State, load
from tests.conftest import ROOT
from tests.tiny_runs import tensors

RUNS = ROOT / "osrt" / "runs"
FOLDERS = {"clevr3d": "clevr3d", "obsurf_msn": "obsurf_msn", "msn": "msn"}
"""Where the data of a published configuration lie among the generated ones."""
ENCODER = {"base_channels": 4, "dim": 16, "num_att_blocks": 2, "num_heads": 2, "dim_head": 8, "mlp_dim": 24}
SLOTS = {"num_slots": 4, "slot_dim": 24, "slot_hidden_dim": 24}
DECODER = {"latent_dim": 24, "num_heads": 2, "hidden_dim": 16}
TRAINING = {
    "batch_size": 4,
    "num_workers": 0,
    "max_it": 6,
    "print_every": 2,
    "checkpoint_every": 1,
    "validate_every": 3,
    "visualize_every": 0,
    "backup_every": 4,
    "lr_warmup": 2,
}


def settings(data: Path, **changes: object) -> list[str]:
    """Words of `--set` that make OSRT small; `changes` are keys of `training`."""
    words = [f"data.path={data}", "data.num_points=48"]
    words += [f"model.encoder_kwargs.{key}={value}" for key, value in (ENCODER | SLOTS).items()]
    words += [f"model.decoder_kwargs.{key}={value}" for key, value in DECODER.items()]
    return words + [f"training.{key}={value}" for key, value in (TRAINING | changes).items()]


def config_in(folder: Path, name: str = "clevr3d") -> Path:
    """The published configuration of that name, copied to a folder for a run of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(RUNS / name / "osrt" / "config.yaml", folder))


def train_words(folder: Path, views: Path, *flags: object, name: str = "clevr3d", **changes: object) -> list:
    """The documents' command on small data and a small model, for the fixture `run`."""
    small = settings(views / FOLDERS[name], **changes)
    return ["osrt/train.py", config_in(folder, name), "--set", *small, *flags]


def state_of(folder: Path, file: str = "model.pt") -> State:
    return load(folder / file)


def rows(folder: Path) -> list[dict]:
    """The logged scalars of a run."""
    return [json.loads(line) for line in (folder / "scalars.jsonl").read_text().splitlines()]


def scalars(folder: Path, name: str) -> list[float]:
    """All logged values of one name, in their order."""
    return [row[name] for row in rows(folder) if name in row]


def largest_difference(found: State, wanted: State) -> float:
    """Of weights and Adam's moments of two checkpoints."""
    differences = []
    for part in ("model", "optimizer"):
        left, right = tensors(found[part]), tensors(wanted[part])
        assert left.keys() == right.keys()
        differences += [float((left[key] - value).abs().max()) for key, value in right.items()]
    return max(differences)


def is_finite(values: dict[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in values.values())
