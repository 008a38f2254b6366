"""A training of half a second for the tests of the trainer, in as many processes as it is started in.

python -m tests.core.toy_training FOLDER [--last-step N] [--batch-size N] [--num-workers N] [--pause SECONDS]
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from core.data.loader import TrainingLoader
from core.nn.noise import ShardedNoise
from core.training.checkpoint import CheckpointFolder
from core.training.launch import end_processes, make_accelerator
from core.training.schedules import warmup_then_decay
from core.training.signals import STOPPED_EXIT_CODE
from core.training.tracking import Tracker
from core.training.trainer import Trainer

SEED = 3


class Pictures:
    """40 pictures of 3x4x4, mixed from two patterns."""

    path = Path("toy pictures")

    def __init__(self):
        rng = np.random.default_rng(0)
        mixed = rng.random((40, 2)) @ rng.random((2, 48)) / 2
        self.images = torch.from_numpy((255 * mixed).astype(np.uint8)).view(40, 3, 4, 4)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        return {"image": self.images[indices]}


class Toy(nn.Module):
    """An autoencoder with a noisy bottleneck, whose loss is weighted by a running mean that a controller keeps."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(48, 4)
        self.decoder = nn.Linear(4, 48)
        self.register_buffer("ema", torch.zeros(()))
        self.noise = ShardedNoise(seed=7)

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        pixels = batch["image"].flatten(1)
        hidden = self.encoder(pixels)
        noise = self.noise.at(step, pixels.device)("hidden", tuple(hidden.shape))
        mse = (self.decoder(hidden + 0.1 * noise) - pixels).square().mean()
        size = hidden.square().mean()
        return {"loss": mse + (0.01 + self.ema) * size, "mse": mse, "size": size}

    def follow(self, step: int, terms: dict[str, Tensor]) -> None:
        self.ema.mul_(0.9).add_(0.1 * terms["mse"])


def make_trainer(
    folder: Path,
    last_step: int = 59,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    resident: bool = False,
    model: nn.Module | None = None,
    **settings,
) -> Trainer:
    """A trainer of the run in `folder`, which goes on where its newest checkpoint ends."""
    accelerator = make_accelerator()
    if model is None:
        torch.manual_seed(SEED)
        model = Toy()
        model.noise = ShardedNoise(7, accelerator.process_index, accelerator.num_processes)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = CheckpointFolder(folder, "toy-state-")
    found = checkpoints.newest()
    loader = TrainingLoader(
        Pictures(),
        batch_size,
        seed=SEED,
        device=accelerator.device,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        num_workers=num_workers,
        resident=resident,
    )
    tracker = Tracker(folder / "tb", found[1]["step"] if found else None) if accelerator.is_main_process else None
    defaults = {
        "optimizer": torch.optim.Adam(model.parameters(), lr=0.01),
        "checkpoint_every": 10,
        "seed": SEED,
        "schedule": warmup_then_decay(5, 100),
        "clip_norm": 0.1,
        "controllers": [model.follow],
        "log_every": 1,
        "show_progress": False,
    }
    trainer = Trainer(
        model=model,
        batches=loader.batches,
        accelerator=accelerator,
        last_step=last_step,
        checkpoints=checkpoints,
        tracker=tracker,
        **(defaults | settings),
    )
    if found:
        trainer.resume(found[1], found[0])
    return trainer


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--last-step", type=int, default=59)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.0)
    chosen = vars(parser.parse_args())
    folder, pause = chosen.pop("folder"), chosen.pop("pause")
    trainer = make_trainer(folder, **chosen)
    averages, hooked = [], []
    trainer.controllers = [*trainer.controllers, lambda step, terms: averages.append(terms["loss"].item())]

    def hook(step: int, batch: dict[str, Tensor]) -> None:
        hooked.append(step)
        print(f"step {step}", flush=True)
        time.sleep(pause)

    trainer.hooks = [(1, hook)]
    finished = trainer.run()
    weights = {name: value.tolist() for name, value in trainer.model.state_dict().items()}
    seen = {"averages": averages, "hooked": hooked, "weights": weights}
    (folder / f"process-{trainer.accelerator.process_index}.json").write_text(json.dumps(seen))
    end_processes(trainer.accelerator)
    return 0 if finished else STOPPED_EXIT_CODE


if __name__ == "__main__":
    sys.exit(main())
