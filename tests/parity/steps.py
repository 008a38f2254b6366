"""The training loop of all papers, driven step by step."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.training.checkpoint import CheckpointFolder
from core.training.launch import make_accelerator
from core.training.trainer import Trainer


def trainer_by_hand(
    model: nn.Module, optimizer: torch.optim.Optimizer, last_step: int, folder: Path, **settings: Any
) -> Trainer:
    """For `trainer.step(step, batch)` up to `last_step`; `settings` are the trainer's other ones. Stores nothing."""
    return Trainer(
        model=model,
        optimizer=optimizer,
        batches=lambda step: iter(()),
        accelerator=make_accelerator(),
        last_step=last_step,
        checkpoints=CheckpointFolder(folder, "trajectory-"),
        checkpoint_every=10**9,
        **settings,
    )
