"""Videos of slots that are predicted, and their scores beside those of a copy of the last frame that was seen.

Shapes: B videos, T = P + K frames, of which P are seen and K predicted.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.data.loader import Batch
from core.files import replacing
from core.metrics.reconstruction import reconstruction_scores
from core.metrics.video_prediction import StepMeans
from core.nn.noise import ImageNoise
from slotdiffusion.framework.reconstruction import MEANINGS as SCORES
from slotdiffusion.vp_vqa.models import DYNAMICS
from slotdiffusion.vp_vqa.models.ldm_slotformer import LDMSlotFormer
from slotformer.video_prediction.evaluation import COPY, PerceptualDistance

MEANINGS = {
    DYNAMICS: "what latent diffusion samples of its roll-out",
    COPY: "baseline: the last observed frame repeated",
}
Scores = dict[str, dict[str, list[float]]]
"""Of a video: of each method each score at each step."""


class Predicted(NamedTuple):
    """Frames after those that were seen, in [-1, 1] but for errors."""

    pictures: Float[Tensor, "B K 3 H W"]
    truth: Float[Tensor, "B K 3 H W"]
    last: Float[Tensor, "B 1 3 H W"]
    """The frame that was seen last."""


def predict(model: LDMSlotFormer, batch: Batch, videos: Sequence[int], seed: int, **solver: Any) -> Predicted:
    """The frames after the first `history_len` of `batch`, whose noise is keyed by (seed, video).

    They are sampled as `solver` says, see `LatentDiffusion.generate`.
    """
    seen, slots, video = model.history_len, batch["slots"], 2 * batch["video"] - 1
    noise = ImageNoise(seed, videos).at(0, slots.device)
    pictures = model.generate(model.rollout(slots[:, :seen], slots.shape[1] - seen), noise, **solver)
    return Predicted(pictures, video[:, seen:], video[:, seen - 1 : seen])


def score(found: Predicted, percept_dist: PerceptualDistance | None) -> list[Scores]:
    """Of each video; float32 also under autocast."""
    shown = {DYNAMICS: found.pictures, COPY: found.last.expand_as(found.truth)}
    with torch.autocast(found.truth.device.type, enabled=False):
        values = {
            method: reconstruction_scores(pictures, found.truth, percept_dist) for method, pictures in shown.items()
        }
    return [
        {method: {name: value[place].tolist() for name, value in of.items()} for method, of in values.items()}
        for place in range(len(found.truth))
    ]


class ScoreFolder:
    """A file of scores for each video."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, video: int, scores: Scores) -> None:
        with replacing(self._file(video)) as partial:
            partial.write_text(json.dumps(scores) + "\n")

    def has(self, video: int, names: set[str]) -> bool:
        """Whether these scores of it are there."""
        return self._file(video).exists() and self.read(video)[DYNAMICS].keys() >= names

    def read(self, video: int) -> Scores:
        return json.loads(self._file(video).read_text())

    def step_means(self, count: int) -> dict[str, dict[str, Float64[Tensor, " K"]]]:
        """Of the first `count` videos: of each method each score, at each step."""
        rows, means = [self.read(video) for video in range(count)], {}
        for method in MEANINGS:
            names = [name for name in SCORES if all(name in row[method] for row in rows)]
            of_method = StepMeans()
            of_method.update({name: torch.tensor(np.array([row[method][name] for row in rows])) for name in names})
            means[method] = of_method.means()
        return means

    def _file(self, video: int) -> Path:
        return self.path / f"{video}.json"
