"""How well a light field predicts rays that it was not given: PSNR, squared error, and agreement with true objects."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from tqdm import tqdm

from core.data.cameras import cast_rays
from core.data.loader import Batch, BatchSource, to_device
from osrt.models.decoder import Rendered
from osrt.models.light_field import LightField
from osrt.scores import ari_of_counts, label_counts, psnr

NAMES = ("psnr", "mse", "coarse_mse", "ari", "fg_ari")
"""Of scores; those of segments exist where the data have masks and the decoder has slots."""


class SceneScores:
    """Scores of every scene of a batch, whose rays may come in parts."""

    def __init__(self) -> None:
        self._errors: dict[str, Float64[Tensor, "B"]] = {}
        self._counts: Float64[Tensor, "B 256 K"] | None = None
        self._num_rays = 0

    def add(self, rendered: Rendered, pixels: Float[Tensor, "B P 3"], labels: UInt8[Tensor, "B P"] | None) -> None:
        """Predicted and true colours of some rays, and their true labels (0 = background)."""
        self._num_rays += pixels.shape[1]
        for name, found in (("mse", rendered.pixels), ("coarse_mse", rendered.coarse_pixels)):
            if found is not None:
                error = (found.float() - pixels).square().sum(dim=(1, 2), dtype=torch.float64)
                self._errors[name] = self._errors.get(name, 0) + error
        if rendered.segmentation is not None and labels is not None:
            counts = label_counts(labels, rendered.segmentation)
            self._counts = counts if self._counts is None else self._counts + counts

    def values(self) -> dict[str, Float64[Tensor, "B"]]:
        """The scores of NAMES, as far as they exist."""
        scores = {name: error / (3 * self._num_rays) for name, error in self._errors.items()}
        scores = {"psnr": psnr(scores["mse"]), **scores}
        return scores if self._counts is None else scores | ari_of_counts(self._counts)


def score_scenes(model: LightField, batch: Batch, chunk: int) -> dict[str, Float64[Tensor, "B"]]:
    """Scores of a batch of `cast_rays`, `chunk` rays of every scene at a time, or fewer where the decoder is large."""
    prepared = model.prepare(model.encode(batch["input_images"], batch["input_camera_pos"], batch["input_rays"]))
    chunk = min(chunk, model.rays_together(prepared, batch["target_rays"].device))
    scores = SceneScores()
    for start in range(0, batch["target_pixels"].shape[1], chunk):
        part = slice(start, start + chunk)
        rendered = model.decode(prepared, batch["target_camera_pos"][:, part], batch["target_rays"][:, part])
        labels = batch["target_masks"][:, part] if "target_masks" in batch else None
        scores.add(rendered, batch["target_pixels"][:, part], labels)
    return scores.values()


@dataclass
class Evaluator:
    """Scores `model` on the samples of `source`, its batches dealt out to the processes.

    Which rays they have is the source's matter (`core.data.cameras.FixedDraws`), so scores of different times compare.
    chunk: at most so many rays of a scene go through the decoder at a time.
    """

    model: LightField
    source: BatchSource
    batch_size: int
    chunk: int
    accelerator: Accelerator

    def score(self, num_batches: int | None = None) -> dict[str, float]:
        """Mean scores over the scenes of the set, or of its first batches: the same on any number of processes."""
        count = -(-len(self.source) // self.batch_size)
        batches = range(count if num_batches is None else min(num_batches, count))
        own = batches[self.accelerator.process_index :: self.accelerator.num_processes]
        was_training = self.model.training
        self.model.eval()
        scored: list[tuple[int, dict[str, Tensor]]] = []
        is_hidden = not self.accelerator.is_main_process or num_batches is not None
        with torch.no_grad(), self.accelerator.autocast():
            read = ahead(lambda number: self.source.read(self._rows(number)), own)
            for number, batch in zip(own, tqdm(read, "evaluation", len(own), leave=False, disable=is_hidden or None)):
                batch = cast_rays(to_device(batch, self.accelerator.device))
                scored.append((number, score_scenes(self.model, batch, self.chunk)))
        self.model.train(was_training)
        scored = [(number, {name: value.cpu() for name, value in scores.items()}) for number, scores in scored]
        if self.accelerator.num_processes > 1:
            scored = gather_object(scored)
        ordered = [scores for _, scores in sorted(scored, key=lambda item: item[0])]
        return {name: float(torch.cat([scores[name] for scores in ordered]).mean()) for name in ordered[0]}

    def _rows(self, number: int) -> np.ndarray:
        return np.arange(number * self.batch_size, min((number + 1) * self.batch_size, len(self.source)))


def ahead(read: Callable[[int], Batch], numbers: Iterable[int]) -> Iterator[Batch]:
    """What `read` gives for all numbers, each while its predecessor is worked upon."""
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(read, number) for number in list(numbers)[:1]]
        for number in list(numbers)[1:]:
            following = reader.submit(read, number)
            yield waiting.pop().result()
            waiting.append(following)
        for last in waiting:
            yield last.result()
