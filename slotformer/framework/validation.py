"""Validations between epochs: mean terms of the loss, signs of collapse, videos."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from core.data.loader import Batch, BatchSource, to_device
from core.nn.noise import ImageNoise, derive_seed
from core.training.tracking import Tracker
from slotformer.framework import collapse
from slotformer.framework.checkpoints import EpochFiles
from slotformer.framework.tasks import Method, SampleMethod, is_lower_better

MONITORED_BATCHES = 4
"""That are looked at for signs of collapse, in any number of processes."""


@dataclass
class Validator:
    """Validates `model` every `every` epochs and after the last; see `__call__`.

    Every sample has noise of its own, so that neither batches, processes nor interruptions change a score.
    `state` goes into checkpoints.
    """

    model: nn.Module
    method: Method
    source: BatchSource
    batch_size: int
    accelerator: Accelerator
    steps_per_epoch: int
    num_epochs: int
    every: int
    seed: int
    checkpoints: EpochFiles
    tracker: Tracker | None = None
    draws: bool = True
    """Whether there are videos and pictures in the log."""
    state: dict[str, Any] = field(default_factory=lambda: {"best": None, "best_epoch": 0, "scores": {}})

    def __call__(self, step: int) -> bool:
        """Validate after `step`, if its epoch is one to do so; never ends the training."""
        epoch = (step + 1) // self.steps_per_epoch
        if epoch % self.every == 0 or epoch == self.num_epochs:
            self.validate(step, epoch)
        return False

    def validate(self, step: int, epoch: int) -> None:
        """Score the whole set and draw."""
        began = time.perf_counter()
        scores = self.score()
        if self._is_best(scores):
            self.state |= {"best_by": self.best_by, "best": scores[self.best_by], "best_epoch": epoch}
            self.checkpoints.note_best()
        self.state["scores"] = scores
        if self.tracker is None:
            return
        self.tracker.scalars(step, {f"val/{name}": value for name, value in scores.items()})
        self.draw(step)
        values = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        tqdm.write(f"epoch {epoch}, validation in {time.perf_counter() - began:.0f} s: {values}")
        for what in collapse.complaints(scores):
            tqdm.write(f"warning: {what}. Training of slots is unstable: other seeds may do better, see --seeds")

    @property
    def best_by(self) -> str:
        """The score that chooses the best checkpoint."""
        return self.method.best_by if isinstance(self.method, SampleMethod) else "loss"

    def _is_best(self, scores: dict[str, float]) -> bool:
        value, best = scores.get(self.best_by), self.state["best"]
        if value is None or best is None:
            return value is not None
        return value < best if is_lower_better(self.best_by) else value > best

    def draw(self, step: int) -> None:
        """Videos and pictures to the log, if it has any; on the main process only."""
        if not self.draws:
            return
        self.model.eval()
        with torch.no_grad():
            for name, found in self.method.videos(self.model).items():
                if found.ndim == 4:
                    self.tracker.video(step, f"val/{name}", found, self.method.fps)
                elif found.ndim == 3:
                    self.tracker.picture(step, f"val/{name}", found.permute(1, 2, 0).numpy())
                else:
                    self.tracker.scalars(step, {f"val/{name}": found})
        self.model.train()

    def score(self, num_batches: int | None = None) -> dict[str, float]:
        """Mean terms, or the method's scores, over the samples of the set, or of its first batches."""
        count = -(-len(self.source) // self.batch_size)
        batches = range(count if num_batches is None else min(num_batches, count))
        own = batches[self.accelerator.process_index :: self.accelerator.num_processes]
        is_hidden = not self.accelerator.is_main_process
        noise = getattr(self.model, "noise", None)
        self.model.eval()
        scored: list[tuple[int, dict[str, tuple[float, int]]]] = []
        with torch.no_grad(), self.accelerator.autocast():
            for number in tqdm(own, "validation", leave=False, disable=True if is_hidden else None):
                rows = range(number * self.batch_size, min((number + 1) * self.batch_size, len(self.source)))
                batch = to_device(self.source.read(np.array(rows)), self.accelerator.device)
                self.model.noise = ImageNoise(derive_seed(self.seed, 3), rows)
                if isinstance(self.method, SampleMethod):
                    values = self.method.samples(self.model, batch)
                    terms = {name: (float(value.double().sum()), len(value)) for name, value in values.items()}
                else:
                    means = self.model.loss(batch, 0)
                    if number < MONITORED_BATCHES and hasattr(self.model, "decompose"):
                        means |= self._signs(batch)
                    terms = {name: (len(rows) * float(value), len(rows)) for name, value in means.items()}
                scored.append((number, terms))
        self.model.noise = noise
        self.model.train()
        return _mean(gather_object(scored) if self.accelerator.num_processes > 1 else scored)

    def _signs(self, batch: Batch) -> dict[str, Tensor]:
        """Of collapse, if the model has several slots."""
        noise = self.model.noise.at(0, self.accelerator.device)
        if hasattr(self.model, "segment"):
            masks = self.model.segment(batch, noise)
        else:
            masks = self.model.decompose(batch, noise).masks
        if masks.shape[-3] < 2:
            return {}
        return collapse.usage(masks) | (collapse.against_blocks(masks, batch["mask"]) if "mask" in batch else {})


def _mean(scored: list[tuple[int, dict[str, tuple[float, int]]]]) -> dict[str, float]:
    """Of each term over the samples that have it, in the order of the batches; NaN is left out."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for _, terms in sorted(scored, key=lambda item: item[0]):
        for name, (total, count) in terms.items():
            if total == total:
                sums[name] = sums.get(name, 0.0) + total
                counts[name] = counts.get(name, 0) + count
    return {name: sums[name] / count for name, count in counts.items() if count}
