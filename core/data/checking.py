"""Reads a whole split of a data set and says what it holds, or what is wrong with the first bad sample."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from core.data.errors import DataError, MissingSplit
from core.data.loader import Batch, BatchSource
from core.data.spec import DataSpec

VALUES = 1 << 24  # of a batch
KEYS = {"images": ("image", "mask"), "videos": ("video", "mask"), "views": ("images", "masks")}
"""Where pictures and masks lie in a batch, by kind of data."""


@dataclass
class Findings:
    """What one split holds.

    objects: of every picture with a mask, how many different instances it shows.
    without_background: pictures that objects cover altogether.
    """

    kind: str
    path: Path
    samples: int
    shape: tuple[int, ...] = ()
    objects: list[int] = field(default_factory=list)
    without_background: int = 0

    def lines(self) -> list[str]:
        """A short table."""
        height, width = self.shape[-2:]
        pictures = f", {self.shape[0]} {'frames' if self.kind == 'videos' else 'views'} each"
        table = {
            "kind": self.kind,
            "samples": f"{self.samples:,}{pictures if len(self.shape) == 4 else ''}",
            "size": f"{height}x{width} (height x width)",
            "masks": "yes" if self.objects else "no",
            "from": str(self.path),
        }
        if self.objects:
            counts = np.array(self.objects)
            table["objects"] = f"{counts.min()} to {counts.max()} a picture, {counts.mean():.1f} on average"
        if self.without_background:
            table["note"] = f"{self.without_background:,} masks have no background (no pixel is 0)"
        return [f"{name + ':':9}{value}" for name, value in table.items()]


def check_split(spec: DataSpec, split: str, root: str | Path | None = None) -> Findings:
    """Reads every sample. Raises DataError for the first that cannot be read or is not as it must be.

    Pictures are uint8 with three channels and all of one size; masks uint8, as many and as large as their pictures,
    and not all of them empty.
    """
    source = spec.open_whole(split, root)
    if not len(source):
        raise MissingSplit(f"{source.path}: split {split} is empty. Make or fetch more of it")
    found = Findings(spec.kind, Path(source.path), len(source))
    first = _read(source, np.arange(1))
    step = max(1, VALUES // max(sum(value[0].numel() for value in first.values()), 1))
    with tqdm(total=len(source), desc=f"reading {split}", unit="sample", leave=False) as bar:
        for begin in range(0, len(source), step):
            indices = np.arange(begin, min(begin + step, len(source)))
            _check_batch(_read(source, indices), begin, found)
            bar.update(len(indices))
    if found.objects and not any(found.objects):
        raise DataError(f"{found.path}: all {len(found.objects):,} masks are empty, expected objects 1, 2, ... in them")
    return found


def _read(source: BatchSource, indices: np.ndarray) -> Batch:
    try:
        return source.read(indices)
    except (OSError, RuntimeError, IndexError, ValueError) as error:
        raise DataError(
            f"{source.path}: samples {indices[0]} to {indices[-1]} cannot be read ({error}). Fetch or make them again"
        ) from error


def _check_batch(batch: Batch, begin: int, found: Findings) -> None:
    picture_key, mask_key = KEYS[found.kind]
    pictures = batch[picture_key]
    found.shape = found.shape or tuple(pictures.shape[1:])
    if pictures.dtype != torch.uint8 or pictures.shape[-3] != 3 or tuple(pictures.shape[1:]) != found.shape:
        raise DataError(
            f"{found.path}: samples from {begin} on are {pictures.dtype} {list(pictures.shape[1:])}, expected uint8 "
            f"{list(found.shape)} with three channels"
        )
    if mask_key in batch:
        _check_masks(batch[mask_key], pictures, begin, found)


def _check_masks(masks: Tensor, pictures: Tensor, begin: int, found: Findings) -> None:
    expected = (*pictures.shape[:-3], *pictures.shape[-2:])
    if masks.dtype != torch.uint8 or tuple(masks.shape) != expected:
        raise DataError(
            f"{found.path}: masks of samples from {begin} on are {masks.dtype} {list(masks.shape)}, expected uint8 "
            f"{list(expected)}, one for every picture and as large"
        )
    for mask in masks.flatten(0, -3).flatten(1).numpy():
        occurs = np.bincount(mask, minlength=256) > 0
        found.objects.append(int(occurs[1:].sum()))
        found.without_background += not occurs[0]
