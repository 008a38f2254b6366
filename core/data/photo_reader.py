"""What SlotDiffusion's readers of COCO and Pascal VOC have in common: squares out of photographs of any size."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from core.data.errors import DataError
from core.data.label_maps import numbered_without_gaps
from core.data.strips import PictureStrip
from core.data.video import read_picture, resize_frames, resize_labels

PLANES = ("mask", "overlap", "semantic")
"""Of a photograph's labels: objects, pixels that are not scored, classes."""


class PhotoReader(ABC):
    """The photographs of one split, resized so that their shorter side has `side` pixels, and cut to a square.

    `read(indices)` gives the middle of each: `image` (n, 3, H, W) uint8 in channels-last memory and, with `masks`, all
    (n, H, W) uint8: `mask`, the objects, and `semantic`, their classes, both numbered 1, 2, ... without gaps in every
    picture, 0 = background; `overlap`, 1 where a pixel is not scored. `read_varied` mirrors half of them and, with
    `shifts`, cuts them out anywhere along the longer side. Resizing is bilinear without antialiasing and happens once,
    into the cache. Raises DataError.

    sources: the pictures. label_sources: the files that their labels come from. sizes: heights and widths.
    as_original: number labels as SlotDiffusion does, which takes the first object for background in a picture that is
        covered with objects.
    """

    def __init__(
        self,
        path: Path,
        split: str,
        sources: Sequence[Path],
        label_sources: Sequence[Path],
        sizes: Int64[np.ndarray, "n 2"],
        side: int,
        *,
        masks: bool,
        shifts: bool = False,
        as_original: bool = False,
    ):
        self.path = path
        self.split = split
        self.sources = list(sources)
        self.label_sources = list(label_sources)
        self.sizes = sizes
        self.image_size = (side, side)
        self.masks = masks
        self.shifts = shifts
        self.as_original = as_original

    @abstractmethod
    def open_labels(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The `PLANES` of a whole photograph."""

    def __len__(self) -> int:
        return len(self.sources)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        spare = self._pictures.lengths[indices] - self.image_size[0]
        return self._cut(indices, spare // 2, np.zeros(len(indices), bool))

    def read_varied(self, indices: np.ndarray, generators: Sequence[np.random.Generator]) -> dict[str, Tensor]:
        """The same, augmented by draws from one generator per sample."""
        flips = np.array([generator.random() < 0.5 for generator in generators])
        spare = self._pictures.lengths[indices] - self.image_size[0]
        if self.shifts:
            offsets = np.array([generator.integers(most + 1) for generator, most in zip(generators, spare)])
        else:
            offsets = spare // 2
        return self._cut(indices, offsets, flips)

    def _cut(self, indices: np.ndarray, offsets: np.ndarray, flips: np.ndarray) -> dict[str, Tensor]:
        def squares(strip: PictureStrip) -> UInt8[np.ndarray, "n H W 3"]:
            found = [strip.square(int(index), int(offset)) for index, offset in zip(indices, offsets)]
            return np.stack([square[:, ::-1] if flip else square for square, flip in zip(found, flips)])

        batch = {"image": torch.from_numpy(squares(self._pictures)).permute(0, 3, 1, 2)}
        if self.masks:
            planes = dict(zip(PLANES, np.moveaxis(squares(self._labels), -1, 0)))
            for name in ("mask", "semantic"):
                planes[name] = np.stack([numbered_without_gaps(one, self.as_original) for one in planes[name]])
            batch |= {name: torch.from_numpy(np.ascontiguousarray(plane)) for name, plane in planes.items()}
        return batch

    @cached_property
    def _pictures(self) -> PictureStrip:
        recipe = f"{self.split}-imgs-{self.image_size[0]}"
        return PictureStrip(self.path, recipe, self.sources, self._resized, self._picture)

    @cached_property
    def _labels(self) -> PictureStrip:
        recipe = f"{self.split}-labels-{self.image_size[0]}"
        return PictureStrip(self.path, recipe, self.label_sources, self._resized, self._label_planes)

    @cached_property
    def _resized(self) -> Int64[np.ndarray, "n 2"]:
        """Heights and widths after resizing."""
        return np.floor(self.sizes * (self.image_size[0] / self.sizes.min(axis=1, keepdims=True)) + 0.5).astype(int)

    def _picture(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        picture = read_picture(self.sources[index], "RGB")
        if picture.shape[:2] != tuple(self.sizes[index]):
            raise DataError(
                f"{self.sources[index]}: is {picture.shape[1]}x{picture.shape[0]}, expected "
                f"{self.sizes[index][1]}x{self.sizes[index][0]} as its annotations say. Fetch it again"
            )
        return resize_frames(picture[None], self._size(index))[0]

    def _label_planes(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        planes = self.open_labels(index).transpose(2, 0, 1)
        return resize_labels(planes, self._size(index)).transpose(1, 2, 0)

    def _size(self, index: int) -> tuple[int, int]:
        height, width = self._resized[index]
        return int(height), int(width)
