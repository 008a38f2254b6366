"""What the readers of CLEVR, ClevrTex, CelebA, ... have in common: pictures decoded once, label maps on request."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.errors import DataError
from core.data.framing import Framing, LabelMap, Picture
from core.data.video import decoded_once, stamp


class PictureReader(ABC):
    """The pictures of one data set split, one file of `sources` for each; a format says how to open them.

    `read(indices)` gives `image` (n, 3, H, W) uint8 in channels-last memory and, with `masks`, `mask` (n, H, W) uint8,
    0 = background. Both are framed, once, into the cache; label maps are not touched unless asked for. Negative indices
    count from the end. Raises DataError, and IndexError for indices out of range.

    `path` is the folder of the data set, `recipe` names the split among others of that folder.
    """

    def __init__(self, path: Path, recipe: str, sources: Sequence[Path], framing: Framing, masks: bool):
        self.path = path
        self.recipe = recipe
        self.sources = list(sources)
        self.framing = framing
        self.masks = masks

    @abstractmethod
    def open_picture(self, path: Path) -> Picture: ...

    def open_labels(self, path: Path) -> LabelMap:
        """The label map in a file, where the data set has any."""
        raise DataError(f"{self.path}: has no label maps. Read it without masks")

    def file_of_labels(self, picture: Path) -> Path:
        """Where the label map of a picture lies."""
        return picture

    def __len__(self) -> int:
        return len(self.sources)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        batch = {"image": torch.from_numpy(np.asarray(self._pictures[indices])).permute(0, 3, 1, 2)}
        if self.masks:
            batch["mask"] = torch.from_numpy(self.framing.number_objects(np.asarray(self._labels[indices])))
        return batch

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """Height and width; without a size to resize to those of the first picture, which all others must have."""
        return self.framing.size or self._picture(self.sources[0]).shape[:2]

    @cached_property
    def _pictures(self) -> np.ndarray:
        """[n, H, W, 3] uint8."""
        recipe = f"{self.recipe}-imgs-{self.framing.key}"
        if self.framing.only_object:
            recipe += f"-{stamp(self.path, map(self.file_of_labels, self.sources))}"
        return self.decode(recipe, self.sources, (*self.image_size, 3), self._picture)

    @cached_property
    def _labels(self) -> np.ndarray:
        """[n, H, W] uint8."""
        files = [self.file_of_labels(source) for source in self.sources]
        recipe = f"{self.recipe}-labels-{self.framing.key}"
        return self.decode(recipe, files, self.image_size, self._label_map)

    def _picture(self, path: Path) -> Picture:
        labels = self.open_labels(self.file_of_labels(path)) if self.framing.only_object else None
        return self.framing.frame_picture(self.open_picture(path), labels)

    def _label_map(self, path: Path) -> LabelMap:
        return self.framing.frame_labels(self.open_labels(path))

    def decode(
        self, recipe: str, files: Sequence[Path], shape: tuple[int, ...], decode: Callable[[Path], np.ndarray]
    ) -> np.ndarray:
        """[n, *shape] uint8: `decode` of each file, kept in the cache. Raises DataError where one has another shape."""

        def checked(file: Path) -> np.ndarray:
            row = decode(file)
            if row.shape != shape:
                raise DataError(
                    f"{file}: becomes {' x '.join(map(str, row.shape))}, expected {' x '.join(map(str, shape))} as the "
                    "first picture of the split. Give a size to resize all of them to"
                )
            return row[None]

        return decoded_once(self.path, recipe, files, (1, *shape), checked)[:, 0]
