"""ClevrTex on disk (Karazija et al. 2021): `CLEVRTEX_<variant>_NNNNNN.png` and `_flat.png` labels, in any folders."""

import hashlib
import re
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.cache import cached_rows
from core.data.errors import DataError

VARIANTS = ("full", "pbg", "vbg", "grassbg", "camo", "outd")
SPLITS = {"test": (0.0, 0.1), "val": (0.1, 0.2), "train": (0.2, 1.0)}
CROP = 0.8


class ClevrTex:
    """One split of a ClevrTex variant, cut to the central 0.8 of the shorter side and resized to `side` pixels.

    `read(indices)` gives `image` (n, 3, S, S) uint8 (bilinear) and, if asked for, `mask` (n, S, S) uint8 entity indices
    with 0 = background (nearest). Decoded once into the cache. Splits are fractions of the numbering (test first, then
    val, then train); `outd` is one whole. Raises DataError.
    """

    def __init__(self, root: str | Path, variant: str, split: str, masks: bool = False, side: int = 128):
        if variant not in VARIANTS:
            raise ValueError(f"ClevrTex variant {variant!r} is not one of {', '.join(VARIANTS)}")
        if split not in SPLITS:
            raise ValueError(f"ClevrTex split {split!r} is not one of {', '.join(SPLITS)}")
        root = Path(root)
        self.path = root if root.name == f"clevrtex_{variant}" else root / f"clevrtex_{variant}"
        self.masks = masks
        self.image_size = (side, side)
        files = self._numbered(variant)
        begin, end = (0.0, 1.0) if variant == "outd" else SPLITS[split]
        self._files = files[int(begin * len(files)) : int(end * len(files))]
        self._recipe = f"{variant}-{split}-{side}"

    def _numbered(self, variant: str) -> list[Path]:
        """All pictures in the order of their numbers, which must run from 0 without gaps."""
        pattern = re.compile(rf"CLEVRTEX_{variant}_(\d{{6}})\.png")
        found = {}
        for path in self.path.rglob(f"CLEVRTEX_{variant}_*.png"):
            if match := pattern.fullmatch(path.name):
                number = int(match.group(1))
                if number in found:
                    raise DataError(
                        f"{path}: picture {number} is there twice, also as {found[number]}. Remove one of them"
                    )
                found[number] = path
        if not found:
            raise DataError(
                f"{self.path}: no CLEVRTEX_{variant}_NNNNNN.png below it. Set texdataset.path to the folder that holds "
                f"clevrtex_{variant}/"
            )
        missing = sorted(set(range(max(found) + 1)) - set(found))
        if missing:
            raise DataError(
                f"{self.path}: picture {missing[0]} is missing ({len(missing)} in all of {max(found) + 1}). "
                "The download is incomplete: unpack it again"
            )
        return [found[number] for number in range(len(found))]

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        batch = {"image": torch.from_numpy(np.asarray(self._pictures[indices])).permute(0, 3, 1, 2)}
        if self.masks:
            batch["mask"] = torch.from_numpy(np.asarray(self._labels[indices]))
        return batch

    @cached_property
    def _pictures(self) -> np.ndarray:
        return self._decoded("imgs", self._files, (3,))

    @cached_property
    def _labels(self) -> np.ndarray:
        return self._decoded("labels", [path.with_name(f"{path.stem}_flat.png") for path in self._files], ())

    def _decoded(self, what: str, files: list[Path], channels: tuple[int, ...]) -> np.ndarray:
        def decode(start: int, stop: int) -> np.ndarray:
            return np.stack([self._open(path, what == "labels") for path in files[start:stop]])

        stamps = hashlib.sha256()
        for path in files:
            status = path.stat() if path.exists() else None
            stamps.update(f"{status and (status.st_size, status.st_mtime_ns)}".encode())
        recipe = f"{self._recipe}-{what}-{stamps.hexdigest()[:16]}"
        return cached_rows(self.path, recipe, (len(self), *self.image_size, *channels), decode)

    def _open(self, path: Path, is_label_map: bool) -> np.ndarray:
        try:
            with Image.open(path) as file:
                file.verify()  # decoding alone lets some damage pass
            with Image.open(path) as file:
                picture = file.copy() if is_label_map else file.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as a picture ({error}). Unpack the data set again") from error
        if is_label_map and picture.mode not in ("L", "P"):
            raise DataError(f"{path}: a label map has one byte per pixel, this picture is {picture.mode}")
        width, height = picture.size
        side = int(CROP * min(width, height))
        left, top = (width - side) // 2, (height - side) // 2
        resample = Image.Resampling.NEAREST if is_label_map else Image.Resampling.BILINEAR
        return np.asarray(picture.crop((left, top, left + side, top + side)).resize(self.image_size, resample))
