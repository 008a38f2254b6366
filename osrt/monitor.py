"""What shows how a training goes: evaluations, pictures, and what the model consists of."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core.data.cameras import FixedDraws, cast_rays
from core.data.loader import to_device
from core.nn.noise import derive_seed
from core.training.tracking import Tracker
from core.viz.panels import save_png
from osrt.data import Source
from osrt.evaluation import Evaluator
from osrt.models.light_field import LightField
from osrt.visualise import visualise

NUM_PICTURES = 12
"""Scenes of each split that are drawn."""


@dataclass
class Monitor:
    """Evaluates and draws `model`. `sources` are its data by split; that which is no training data is evaluated.

    tracker: of the main process, which alone prints.
    """

    model: LightField
    sources: Mapping[str, Source]
    evaluator: Evaluator
    folder: Path
    seed: int
    tracker: Tracker | None = None

    def evaluate(self, iterations: int) -> dict[str, float]:
        """The scores of the whole set after so many iterations, printed and logged; on all processes."""
        began = time.perf_counter()
        scores = self.evaluator.score()
        if self.tracker:
            shown = ", ".join(f"{name}={value:.6f}" for name, value in scores.items())
            seconds, count = time.perf_counter() - began, len(self.evaluator.source)
            tqdm.write(f"evaluation after {iterations} iterations, {count} scenes, {seconds:.0f} s: {shown}")
            split = next(split for split in self.sources if split != "train")
            self.tracker.scalars(max(0, iterations - 1), {f"{split}/{name}": scores[name] for name in scores})
        return scores

    def draw(self, iterations: int) -> None:
        """Write renders-<split>.png after so many iterations; on the main process."""
        for split, source in self.sources.items():
            rows = np.unique(np.linspace(0, len(source) - 1, NUM_PICTURES).astype(int))
            batch = FixedDraws(source, source.draw, derive_seed(self.seed, 3)).read(rows)
            # Targets are not drawn, and in full scale they are large.
            few = {name: batch[name][:, :1] for name in ("target_pixels", "target_points")}
            batch = cast_rays(to_device(batch | few, self.evaluator.accelerator.device))
            with self.evaluator.accelerator.autocast():
                picture = visualise(self.model, batch, source.render_range[1])
            self.tracker.flush()  # Weights & Biases takes nothing that is older than this
            path = self.folder / f"renders-{'train' if split == 'train' else 'val'}.png"
            save_png(path, picture)
            self.tracker.picture(max(0, iterations - 1), f"{split}/renders", picture)
            tqdm.write(f"drew {path} after {iterations} iterations")


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether a score is above (or, if it is to be minimised, below) the best so far. NaN never is."""
    if math.isnan(value) or best is None:
        return not math.isnan(value)
    return value > best if mode == "maximize" else value < best


def parameter_counts(model: LightField) -> str:
    """Of the encoder, of its parts where it has slots, of the decoder, and in all."""
    parts = {"encoder": model.encoder}
    if hasattr(model.encoder, "slot_attention"):
        parts |= {"SRT encoder": model.encoder.srt_encoder, "slot attention": model.encoder.slot_attention}
    parts |= {"decoder": model.decoder, "all": model}
    counts = {name: sum(value.numel() for value in part.parameters()) for name, part in parts.items()}
    return "parameters: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())


def parameter_table(model: LightField) -> str:
    """One line per parameter: name, shape, number of values."""
    lines = [f"{name:80} {list(value.shape)} {value.numel():,}" for name, value in model.named_parameters()]
    return "\n".join(lines)
