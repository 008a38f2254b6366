"""The validation at the end of every epoch: scores, pictures, the best value so far, and when to stop early."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from clevrtex.framework.optim import Plateau
from clevrtex.framework.pictures import has_pictures, validation_pictures
from clevrtex.framework.validation import MONITOR, mean_over_images, validation_scalars
from core.data.loader import Batch, BatchSource, to_device
from core.data.spec import DataSpec
from core.metrics.clevrtex import squared_error
from core.nn.noise import derive_seed, seeded_noise
from core.training.tracking import Tracker

SANITY_BATCHES = 2
LEAST_IMPROVEMENT = 1e-4


@dataclass
class Validator:
    """Scores `model` on a validation set, its batches dealt out to the processes; see `__call__`.

    Every picture has noise of its own, so that neither batches, processes nor interruptions change a score.
    `state` goes into checkpoints.
    """

    model: nn.Module
    source: BatchSource
    spec: DataSpec
    batch_size: int
    accelerator: Accelerator
    steps_per_epoch: int
    max_steps: int
    seed: int
    tracker: Tracker | None = None
    limit: int | float | None = None
    masks_have_background: bool = True
    as_original: bool = False
    on_cpu: bool = False
    quiet: bool = False
    patience: int | None = None
    """Validations without a better monitor after which to stop; None: never."""
    plateau: Plateau | None = None
    on_score: Callable[[float], None] = lambda score: None
    state: dict[str, Any] = field(default_factory=lambda: {"best": float("inf"), "waited": 0, "scores": {}})

    def __post_init__(self) -> None:
        self._began = time.perf_counter()

    def __call__(self, step: int) -> bool:
        """Validate after `step`; whether to stop early."""
        epoch = step // self.steps_per_epoch
        draws = self.tracker is not None and has_pictures(epoch)
        scores = self.score(epoch if draws else None)
        monitored = scores[MONITOR]
        if draws and hasattr(self.model, "pictures"):
            for name, picture in self.model.pictures().items():
                self.tracker.picture(epoch, name, picture.permute(1, 2, 0).numpy())
        self.on_score(monitored)
        if self.plateau is not None:
            self.plateau.update(monitored)
        if monitored < self.state["best"] - LEAST_IMPROVEMENT:
            self.state |= {"best": monitored, "waited": 0}
        else:
            self.state["waited"] += 1
        self.state["scores"] = scores
        if self.tracker is not None:
            self.tracker.scalars(step, {**scores, "epoch": float(epoch)})
            self._report(step, epoch, scores)
        return self.patience is not None and self.state["waited"] >= self.patience

    def _report(self, step: int, epoch: int, scores: dict[str, float]) -> None:
        seconds, self._began = time.perf_counter() - self._began, time.perf_counter()
        epochs = -(-self.max_steps // self.steps_per_epoch)
        shown = [name for name in scores if self.quiet or name in (MONITOR, "dice", "acc", "cnt", "ari_fg")]
        values = " ".join(f"{name}={scores[name]:.4g}" for name in shown)
        tqdm.write(f"{epoch + 1}/{epochs} [{step + 1}/{self.max_steps}] epoch in {seconds:.0f} s: {values}")

    def score(self, epoch: int | None = None, num_batches: int | None = None) -> dict[str, float]:
        """Mean scores over the set, or over its first batches; with pictures of the first one if `epoch` is given."""
        was_training = self.model.training
        self.model.eval()
        noise = seeded_noise(derive_seed(self.seed, 3), self.accelerator.device)
        batches = range(self._count() if num_batches is None else min(num_batches, self._count()))
        own = batches[self.accelerator.process_index :: self.accelerator.num_processes]
        scored: list[tuple[int, dict[str, Tensor]]] = []
        hidden = self.quiet or not self.accelerator.is_main_process
        for number in tqdm(own, "validation", leave=False, disable=True if hidden else None):
            batch = self._batch(number)
            with torch.no_grad():
                prediction = self.model.decompose(batch, noise(self._rows(number)))
            if num_batches is not None:
                prediction.validate()
            if self.on_cpu:
                prediction, batch = prediction.cpu(), {key: value.cpu() for key, value in batch.items()}
            scored.append((number, self._scores(prediction, batch)))
            if number == 0 and epoch is not None:
                options = {"masks_have_background": self.masks_have_background}
                for name, picture in validation_pictures(prediction, batch, **options).items():
                    self.tracker.picture(epoch, name, picture.permute(1, 2, 0).numpy())
        self.model.train(was_training)
        return mean_over_images([scores for _, scores in sorted(self._gathered(scored), key=lambda item: item[0])])

    def _gathered(self, scored: list[tuple[int, dict[str, Tensor]]]) -> Sequence[tuple[int, dict[str, Tensor]]]:
        scored = [(number, {name: value.cpu() for name, value in scores.items()}) for number, scores in scored]
        return gather_object(scored) if self.accelerator.num_processes > 1 else scored

    def _scores(self, prediction: Any, batch: Batch) -> dict[str, Tensor]:
        if "mask" not in batch:
            return {MONITOR: squared_error(prediction.recon, batch["image"]).sum(dim=(1, 2))}
        options = {"masks_have_background": self.masks_have_background, "as_original": self.as_original}
        return validation_scalars(prediction, batch, **options)

    def _batch(self, number: int) -> Batch:
        rows = np.array(self._rows(number))
        return self.spec.recolour(to_device(self.source.read(rows), self.accelerator.device))

    def _rows(self, number: int) -> range:
        return range(number * self.batch_size, min((number + 1) * self.batch_size, len(self.source)))

    def _count(self) -> int:
        """Batches of the set, as far as `limit` lets them through; the last one may be smaller."""
        count = -(-len(self.source) // self.batch_size)
        return count if self.limit is None else at_most(self.limit, count)


def at_most(limit: int | float, count: int) -> int:
    """So many of `count` batches, at least one: a number, or a share if `limit` is a float."""
    return max(1, min(count, int(limit * count) if isinstance(limit, float) else limit))
