"""CLEVR with masks as the ClevrTex benchmark stores it: one compressed `.npz` per picture and a manifest.

`<root>/manifest_ind.json` maps an index to the path of its file; in each file `image` [240, 320, 3] uint8, `mask`
[11, 240, 320, 1] of 0 and 255 (entity 0 is the background) and `visibility` [11], beside other factors.
"""

import json
import zipfile
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.cache import cached_rows
from core.data.errors import DataError
from core.metrics.segmentation import labels_from_masks

SPLITS = {"test": (0, 15_000), "val": (15_000, 30_000), "train": (30_000, None)}
BOX = (24, 216, 64, 256)
"""First and last row, first and last column, of the square that the benchmark cuts out."""
REMEDY = "Make it with `python tools/make_data.py clevr --root ...`, or convert the published clevr_with_masks"


class Clevr:
    """One split of CLEVR with masks.

    `read(indices)` gives `image` (n, 3, H, W) uint8, `mask` (n, H, W) uint8 entity indices with 0 = background and
    `visible` (n, E) bool. Pictures and masks are cut to the square if `crop`, then resized to `side` if it is not None
    (pictures bilinear without antialiasing, masks nearest, as in the benchmark), once, into the cache.

    A set that `tools/make_data.py` made is split by its share of scenes: the first 15 % test, the next 15 % val.
    Raises DataError.
    """

    def __init__(self, root: str | Path, split: str = "train", crop: bool = True, side: int | None = 128):
        if split not in SPLITS:
            raise ValueError(f"CLEVR split {split!r} is not one of {', '.join(SPLITS)}")
        self.path = Path(root)
        self.split = split
        self.crop = crop
        files = self._manifest()
        begin, end = SPLITS[split]
        if (self.path / "dataset.json").exists():
            begin, end = (None if bound is None else round(bound * len(files) / 100_000) for bound in (begin, end))
        self._files = files[begin:end]
        if not self._files:
            raise DataError(f"{self.path}: holds {len(files)} pictures, none of them in split {split!r}. {REMEDY}")
        height, width = (BOX[1] - BOX[0], BOX[3] - BOX[2]) if crop else (240, 320)
        self.image_size = (side, side) if side else (height, width)

    def _manifest(self) -> list[Path]:
        """All files in the order of their indices."""
        manifest = self.path / "manifest_ind.json"
        try:
            paths = {int(index): self.path / path for index, path in json.loads(manifest.read_text()).items()}
        except FileNotFoundError:
            paths = {int(path.stem.rpartition("_")[2]): path for path in self.path.rglob("*.npz")}
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{manifest}: not a table of indices and paths ({error}). {REMEDY}") from error
        if not paths:
            raise DataError(f"{self.path}: no manifest_ind.json and no .npz file below it. {REMEDY}")
        return [paths[index] for index in sorted(paths)]

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        pictures = torch.from_numpy(np.asarray(self._decoded[indices]))
        pixels = self.image_size[0] * self.image_size[1]
        image, mask, visible = pictures.split([3 * pixels, pixels, pictures.shape[1] - 4 * pixels], dim=1)
        return {
            "image": image.view(-1, *self.image_size, 3).permute(0, 3, 1, 2),
            "mask": mask.view(-1, *self.image_size),
            "visible": visible.bool(),
        }

    @cached_property
    def _decoded(self) -> np.ndarray:
        """[n, bytes] uint8: picture, labels and visibility of each scene, one file read for all three."""
        num_entities = len(self._open(self._files[0])["visibility"])
        size = 4 * self.image_size[0] * self.image_size[1] + num_entities

        def decode(start: int, stop: int) -> np.ndarray:
            return np.stack([self._flat(path) for path in self._files[start:stop]])

        recipe = f"clevr-{self.split}-{'crop' if self.crop else 'whole'}-{self.image_size[0]}x{self.image_size[1]}"
        return cached_rows(self.path, recipe, (len(self), size), decode)

    def _flat(self, path: Path) -> np.ndarray:
        content = self._open(path)
        image, masks = content["image"], content["mask"][..., 0]
        if self.crop:
            top, bottom, left, right = BOX
            image, masks = image[top:bottom, left:right], masks[:, top:bottom, left:right]
        labels = labels_from_masks(torch.from_numpy(np.ascontiguousarray(masks))[None])[0]
        picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if picture.shape[1:] != self.image_size:
            resized = F.interpolate(picture[None].float(), self.image_size, mode="bilinear", align_corners=False)
            picture = resized[0].round().byte()
            labels = F.interpolate(labels[None, None].float(), self.image_size, mode="nearest")[0, 0].byte()
        visible = (content["visibility"] != 0).astype(np.uint8)
        return np.concatenate([picture.permute(1, 2, 0).numpy().ravel(), labels.numpy().ravel(), visible])

    @staticmethod
    def _open(path: Path) -> dict[str, np.ndarray]:
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in ("image", "mask", "visibility")}
        except FileNotFoundError as error:
            raise DataError(f"{path}: the manifest names it, but it is not there. {REMEDY}") from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: cannot be read as a CLEVR scene ({error}). {REMEDY}") from error
        image, mask = content["image"], content["mask"]
        if image.dtype != np.uint8 or image.ndim != 3 or mask.shape[1:3] != image.shape[:2]:
            raise DataError(f"{path}: image is {image.dtype} {image.shape}, mask {mask.shape}; they do not agree")
        return content
