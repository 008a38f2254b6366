"""What every evaluation gets, and how it reports."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from core.data.loader import Batch, BatchSource, evaluation_batches, to_device
from core.files import replacing
from core.nn.noise import Noise


@dataclass(frozen=True)
class Task:
    """A trained model in evaluation mode, held-out data, and the folder that results go to."""

    model: nn.Module
    source: BatchSource
    folder: Path
    device: torch.device
    noise: Callable[[range], Noise]
    """The draws of the images of these numbers."""
    seed: int = 0
    num_images: int = 320
    range_images: int = 100
    """How many images the ranges of the latent dimensions and their activeness are measured on."""
    batch_size: int = 32
    slot: int = 0
    """The slot that a traversal changes."""
    as_original: bool = False
    """Keep what the original code does although it is a mistake (its README section says which)."""
    describe: dict[str, Any] | None = None
    """Goes into every JSON file."""

    def batches(self, title: str, num_images: int) -> Iterator[tuple[range, Batch, Noise]]:
        """The first `num_images` images, their numbers and draws, behind a progress bar."""
        size, begin = min(num_images, len(self.source)), 0
        with tqdm(total=size, desc=title, unit="img") as bar:
            for batch in evaluation_batches(self.source, self.batch_size, self.device, size):
                indices = range(begin, begin + len(batch["image"]))
                yield indices, batch, self.noise(indices)
                begin = indices.stop
                bar.update(len(indices))

    def one_image(self, index: int) -> tuple[Batch, Noise]:
        """Image number `index` as a batch of one, and its draws."""
        batch = to_device(self.source.read(np.array([index])), self.device)
        return batch, self.noise(range(index, index + 1))

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write `values` behind what describes the evaluation; NaN becomes null, which every reader understands."""
        self.write_text(name, json.dumps(_without_nan({**(self.describe or {}), **values}), indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        with replacing(self.folder / name) as temporary:
            temporary.write_text(text)

    def write_array(self, name: str, array: np.ndarray) -> None:
        with replacing(self.folder / name) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def resize_masks(masks: Float[Tensor, "N K H W"], size: tuple[int, int]) -> Float[Tensor, "N K H2 W2"]:
    """Masks at the resolution of the true ones, with Pillow's bicubic filter."""
    if masks.shape[-2:] == size:
        return masks
    return F.interpolate(masks, size, mode="bicubic", antialias=True, align_corners=False)


def statistics_of(values: dict[str, Float[Tensor, "N"]]) -> dict[str, dict[str, float]]:
    """Mean and population standard deviation of every metric over the images that have a value."""
    return {
        name: {"mean": float(value.nanmean()), "std": float((value - value.nanmean()).square().nanmean().sqrt())}
        for name, value in values.items()
    }


def statistics_table(statistics: dict[str, dict[str, float]], titles: dict[str, str] | None = None) -> str:
    """One line per metric."""
    titles = titles or {}
    rows = [f"{'metric':<10} {'mean':>10} {'std':>10}"]
    rows += [f"{titles.get(name, name):<10} {of['mean']:>10.5g} {of['std']:>10.3g}" for name, of in statistics.items()]
    return "\n".join(rows)
