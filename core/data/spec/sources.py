"""Data sets as the benchmark takes them: framed, joined, and with random colours for every sample."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from core.data.framing import Framing
from core.data.loader import Batch, BatchSource
from core.data.spec.recolour import colour_table

Stills = Callable[[Batch], Batch]
"""Makes `image` and `mask` (n, ...) of what a source of videos or of views reads."""


def first_frames(batch: Batch) -> Batch:
    """Of videos."""
    stills = {"image": batch["video"][:, 0]}
    return stills | ({"mask": batch["mask"][:, 0]} if "mask" in batch else {})


def input_views(batch: Batch) -> Batch:
    """Of scenes seen from several sides, each from its input view, or from the first where none is marked."""
    rows = torch.arange(len(batch["images"]))
    views = batch.get("input_view", torch.zeros_like(rows))
    stills = {"image": batch["images"][rows, views]}
    return stills | ({"mask": batch["masks"][rows, views]} if "masks" in batch else {})


class Framed:
    """`rows` of a source of uint8 pictures, framed whenever they are read."""

    def __init__(
        self, source: BatchSource, rows: range, framing: Framing, masks: bool = False, stills: Stills | None = None
    ):
        self.source = source
        self.path = source.path
        self.rows = rows
        self.framing = framing
        self.masks = masks
        self.stills = stills
        self.image_size: tuple[int, int] = framing.size or tuple(self.read(np.array([0]))["image"].shape[2:])

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order: `image`, and with `masks` also `mask`."""
        batch = self.source.read(np.asarray(self.rows)[indices])
        batch = self.stills(batch) if self.stills else batch
        found = {"image": batch["image"]}
        labels = batch["mask"].numpy() if "mask" in batch else [None] * len(indices)
        if self.framing.key != "whole":
            pictures = zip(batch["image"].permute(0, 2, 3, 1).numpy(), labels)
            framed = np.stack([self.framing.frame_picture(picture, label) for picture, label in pictures])
            found["image"] = torch.from_numpy(framed).permute(0, 3, 1, 2)
        if self.masks:
            masks = np.stack([self.framing.frame_labels(label) for label in labels])
            found["mask"] = torch.from_numpy(self.framing.limit_objects(masks))
        return found


class Concatenated:
    """Several sources one after the other: `image` of them all, and `mask` if all have it."""

    def __init__(self, sources: Sequence[BatchSource]):
        sizes = {source.image_size: source.path for source in sources}
        if len(sizes) > 1:
            found = ", ".join(f"{path} {height}x{width}" for (height, width), path in sizes.items())
            raise ValueError(f"concat(...) needs pictures of one size, found {found}. Add a size such as -(128,128)")
        self.sources = list(sources)
        self.path = sources[0].path
        self.image_size = sources[0].image_size
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        indices = np.asarray(indices)
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"{len(self)} samples, asked for {indices.min()} to {indices.max()}")
        member = np.searchsorted(self._ends, indices, side="right")
        parts, places = [], []
        for number in np.unique(member):
            source = self.sources[number]
            where = np.flatnonzero(member == number)
            parts.append(source.read(indices[where] - (self._ends[number] - len(source))))
            places.append(where)
        order = np.argsort(np.concatenate(places))
        keys = [key for key in ("image", "mask") if all(key in part for part in parts)]
        return {key: torch.cat([part[key] for part in parts])[order] for key in keys}


class Coloured:
    """Every sample of a source with `colours` (n, N, 3, 1, 1) float32 of its own, for `recolour`."""

    def __init__(self, source: BatchSource, num_colours: int):
        self.source = source
        self.path = source.path
        self.image_size = source.image_size
        self._colours = torch.from_numpy(colour_table(len(source), num_colours))[:, :, :3]

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        return {**self.source.read(indices), "colours": self._colours[indices]}
