"""The `.h5` files of DeepMind's multi-object data sets, as EfficientMORL and its peers distribute them.

One file per split, one group named after the split (`train`, `test`), in it `imgs` [n, H, W, C] integers 0..255 and
optionally `masks` [n, E, H, W, 1] of 0 or 255 (entity 0 is the background) and `factors` [n, E, F].
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.cache import cached_rows
from core.data.errors import DataError
from core.metrics.segmentation import labels_from_masks

CLEVR_BOX = (64, 29, 256, 221)
"""Left, top, right, bottom of the square that every published model cuts out of a 320x240 CLEVR picture."""
CLEVR_SIDES = {"clevr-large": 128, "clevr-small": 96}


class MultiObjectH5:
    """One split of a multi-object `.h5` file.

    `read(indices)` gives `image` (n, 3, H, W) uint8 in channels-last memory and, if asked for, `mask` (n, H, W) uint8
    entity indices with 0 = background and `factors` (n, E, F) float32. With a CLEVR `style` pictures are cut to the
    square and resized (Pillow's bicubic, as in the original); masks are cut but keep 192x192.

    Contiguous pictures are memory-mapped where they lie; compressed, chunked or resized ones are decoded once into the
    cache. No file is open between reads, so workers may be forked at any time. Raises DataError.
    """

    def __init__(self, path: str | Path, split: str, style: str = "", masks: bool = False, factors: bool = False):
        if style and style not in CLEVR_SIDES:
            raise ValueError(f"clevr_preprocess_style={style!r} is not one of '', {', '.join(map(repr, CLEVR_SIDES))}")
        self.path = Path(path)
        self.split = split.lower()
        self.style = style
        self.masks = masks
        self.factors = factors
        with self._group() as group:
            self._length = self._check(
                group, "imgs", lambda shape: len(shape) == 4 and shape[3] in (1, 3), "[n, H, W, 3]"
            )
            if masks:
                self._check(group, "masks", lambda shape: len(shape) == 5 and shape[4] == 1, "[n, E, H, W, 1]")
                self.num_entities = group["masks"].shape[1]
            if factors:
                self._check(group, "factors", lambda shape: len(shape) == 3, "[n, E, F]")
                self.factor_names = [str(name) for name in group["factors"].attrs.get("names", [])]
            height, width = group["imgs"].shape[1:3]
        if style and (height, width) != (240, 320):
            raise DataError(
                f"{self.path}: style {style!r} cuts 320x240 CLEVR pictures, but these are {width}x{height}. "
                "Set dataset.clevr_preprocess_style='' for pictures that are square already"
            )
        side = CLEVR_SIDES.get(style)
        self.image_size: tuple[int, int] = (side, side) if side else (height, width)

    def __len__(self) -> int:
        return self._length

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        pictures = torch.from_numpy(self._take(self._pictures, indices)).permute(0, 3, 1, 2)
        batch = {"image": pictures.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)}
        if self.masks:
            batch["mask"] = torch.from_numpy(self._take(self._labels, indices))
        if self.factors:
            batch["factors"] = torch.from_numpy(self._factors[indices])
        return batch

    @staticmethod
    def _take(rows: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return np.asarray(rows[indices])

    @cached_property
    def _pictures(self) -> np.ndarray:
        """[n, H, W, C] uint8 at training size."""
        if not self.style and (mapped := self._mapped("imgs")) is not None:
            return mapped

        def decode(start: int, stop: int) -> np.ndarray:
            pictures = self._bytes("imgs", start, stop)
            if not self.style:
                return pictures
            cut = (Image.fromarray(picture.squeeze()).crop(CLEVR_BOX) for picture in pictures)
            return np.stack([np.asarray(picture.resize(self.image_size, Image.Resampling.BICUBIC)) for picture in cut])

        with self._group() as group:
            shape = group["imgs"].shape
        recipe = f"{self.split}-imgs{'-' + self.style if self.style else ''}"
        return cached_rows(self.path, recipe, (len(self), *self.image_size, shape[3]), decode)

    @cached_property
    def _labels(self) -> np.ndarray:
        """[n, H, W] uint8 entity indices."""

        def decode(start: int, stop: int) -> np.ndarray:
            masks = self._bytes("masks", start, stop)[..., 0]
            if masks.max() == 1:
                raise DataError(
                    f"{self.path}: {self.split}/masks[{start}:{stop}] hold 0 and 1, expected 0 and 255, which marks an "
                    "entity. Multiply them by 255"
                )
            if self.style:
                left, top, right, bottom = CLEVR_BOX
                masks = masks[:, :, top:bottom, left:right]
            return labels_from_masks(torch.from_numpy(np.ascontiguousarray(masks))).numpy()

        with self._group() as group:
            height, width = group["masks"].shape[2:4]
        size = (192, 192) if self.style else (height, width)
        return cached_rows(self.path, f"{self.split}-labels{'-192' if self.style else ''}", (len(self), *size), decode)

    @cached_property
    def _factors(self) -> np.ndarray:
        return self._rows("factors", 0, len(self)).astype(np.float32)

    def _mapped(self, name: str) -> np.ndarray | None:
        """The data set as a memory map, if the file holds it as one piece of uint8."""
        with self._group() as group:
            dataset = group[name]
            offset, dtype, shape = dataset.id.get_offset(), dataset.dtype, dataset.shape
        if offset is None or dtype != np.uint8:
            return None
        return np.memmap(self.path, dtype=np.uint8, mode="r", offset=offset, shape=shape)

    def _bytes(self, name: str, start: int, stop: int) -> np.ndarray:
        rows = self._rows(name, start, stop)
        if rows.dtype != np.uint8 and (rows.min() < 0 or rows.max() > 255):
            raise DataError(
                f"{self.path}: {self.split}/{name}[{start}:{stop}] is {rows.min()} to {rows.max()}, expected 0 to 255"
            )
        return rows.astype(np.uint8, copy=False)

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        with self._group() as group:
            try:
                return group[name][start:stop]
            except (OSError, RuntimeError) as error:
                raise DataError(
                    f"{self.path}: {self.split}/{name}[{start}:{stop}] cannot be read ({error}). "
                    "The file is damaged: fetch or generate it again"
                ) from error

    @contextmanager
    def _group(self) -> Iterator[h5py.Group]:
        """The group of the split, open for reading."""
        if not self.path.is_file():
            beside = sorted(path.name for path in self.path.parent.glob("*.h5"))
            raise DataError(
                f"{self.path}: no such file. {self.path.parent} holds {', '.join(beside) or 'no .h5 file'}. "
                "Check dataset.data_path and dataset.h5_path, or make the data with tools/make_data.py"
            )
        try:
            with h5py.File(self.path, "r") as file:
                if self.split not in file:
                    groups = ", ".join(map(repr, file)) or "nothing"
                    raise DataError(
                        f"{self.path}: no group {self.split!r}; the file holds {groups}. "
                        "Set training.mode or test.mode to one of them"
                    )
                yield file[self.split]
        except DataError:
            raise
        except Exception as error:  # h5py raises many kinds on a damaged header
            raise DataError(
                f"{self.path}: not a readable .h5 file ({error}). It is damaged: fetch or generate it again"
            ) from error

    def _check(self, group: h5py.Group, name: str, fits: Any, expected: str) -> int:
        if name not in group:
            raise DataError(
                f"{self.path}: group {self.split!r} has no {name!r}, only {', '.join(map(repr, group))}. "
                f"Use a file with {name}, or switch dataset.{name} off"
                if name != "imgs"
                else f"{self.path}: group {self.split!r} has no 'imgs', only {', '.join(map(repr, group))}"
            )
        shape, dtype = group[name].shape, group[name].dtype
        if not fits(shape) or (name != "factors" and dtype.kind not in "iu"):
            raise DataError(f"{self.path}: {self.split}/{name} is {dtype} {list(shape)}, expected integers {expected}")
        if len(group[name]) != len(group["imgs"]) or not len(group[name]):
            raise DataError(
                f"{self.path}: {self.split}/{name} holds {len(group[name])} samples, imgs {len(group['imgs'])}"
            )
        return len(group[name])
