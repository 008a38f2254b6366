"""Small trainings of SlotFormer's base models, and what they leave on disk."""

import json
from pathlib import Path

import torch
from torch import Tensor

from core.training.checkpoint import load
from tests.conftest import ROOT

CONFIGS = ROOT / "slotformer" / "base_slots" / "configs"
ENCODER = ("enc_dict.enc_channels=(3,8,8,8,8)", "enc_dict.enc_out_channels=16")
SLOTS = ("slot_size=16", "slot_dict.num_slots=3", "pred_dict.pred_num_heads=2")
SAVI = (*ENCODER, *SLOTS, "dec_dict.dec_channels=(16,8,8,8,8)")
LENGTHS = ("n_sample_frames=2", "train_batch_size=2", "val_batch_size=3", "n_samples=1", "print_iter=1")
SMALL = {
    "savi_obj3d_params": (*SAVI, "video_len=6", "lr=1e-3"),
    "stosavi_clevrer_params": (*SAVI, "lr=1e-3", "video_len=8"),
    "savi_phyre_params-fold0": (*SAVI, "video_len=4"),
    "dvae_physion_params": ("n_sample_frames=1", "vocab_size=32", "video_len=6"),
    "steve_physion_params": (
        *(*ENCODER, *SLOTS, "video_len=6", "dvae_dict.vocab_size=32"),
        *("dec_dict.dec_d_model=16", "dec_dict.dec_num_layers=1", "dec_dict.dec_num_heads=2"),
    ),
}
"""Keys that make each model quick. Dropout is what two processes draw differently."""


def train_words(config: str, data: Path, name: str, *flags: object, settings: tuple = (), epochs: int = 1) -> list:
    """The documents' command on small videos, for the fixture `run`."""
    words = ("slotformer/scripts/train.py", "--task", "base_slots", "--params", CONFIGS / f"{config}.py")
    small = (f"data_root={data}", *LENGTHS, *SMALL[config], f"max_epochs={epochs}", "gpus=1", "dropout=0.0", *settings)
    return [*words, "--name", name, *flags, "--set", *small]


def rows(folder: Path) -> list[dict]:
    """The logged scalars of a run."""
    return [json.loads(line) for line in (folder / "scalars.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [row["train/loss"] for row in rows(folder) if "train/loss" in row]


def newest(folder: Path) -> Path:
    """The newest checkpoint of a run."""
    return max((folder / "models").glob("model_*.pth"), key=lambda path: int(path.stem.removeprefix("model_")))


def weights(folder: Path) -> dict[str, Tensor]:
    return load(newest(folder))["model"]


def assert_same_weights(folder: Path, other: Path) -> None:
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
