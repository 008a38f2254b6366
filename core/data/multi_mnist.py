"""Multi-MNIST (Eslami et al. 2016) as the ClevrTex benchmark stores it: `multi_mnist.npz`, pictures without masks.

`imgs` holds the pictures, 50x50 and grey, as an array or as an array of arrays, which numpy stores as a pickle.
"""

import zipfile
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from core.data.cache import cached_rows
from core.data.errors import DataError, MissingSplit
from core.data.safe_pickle import read_pickle

SPLITS = {"test": (0, 5000), "val": (5000, 10_000), "train": (10_000, None)}
SIZE = (50, 50)
REMEDY = "Write the pictures as `np.savez(path, imgs=...)`, uint8 [n, 50, 50]; the first 10 000 are for test and val"


class MultiMnist:
    """One split: `read(indices)` gives `image` (n, 3, 50, 50) uint8. Written to the cache once. Raises DataError."""

    def __init__(self, path: str | Path, split: str):
        if split not in SPLITS:
            raise ValueError(f"Multi-MNIST split {split!r} is not one of {', '.join(SPLITS)}")
        self.path = Path(path)
        self.split = split
        self.image_size = SIZE
        count = len(self._stored(header_only=True))
        self._rows = range(count)[slice(*SPLITS[split])]
        if not self._rows:
            raise MissingSplit(f"{self.path}: holds {count} pictures, none of them in split {split!r}. {REMEDY}")

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order; their three channels are the same."""
        pictures = torch.from_numpy(np.asarray(self._pictures[indices]))
        return {"image": pictures[:, None].repeat(1, 3, 1, 1)}

    @cached_property
    def _pictures(self) -> np.ndarray:
        """[n, H, W] uint8."""
        pictures = None

        def decode(start: int, stop: int) -> np.ndarray:
            nonlocal pictures
            if pictures is None:
                pictures = self._as_bytes(self._stored())
            return pictures[self._rows[start] : self._rows[start] + stop - start]

        return cached_rows(self.path, self.split, (len(self), *SIZE), decode)

    def _as_bytes(self, stored: np.ndarray) -> UInt8[np.ndarray, "n H W"]:
        try:
            pictures = np.stack([np.squeeze(np.asarray(picture)) for picture in stored])
        except ValueError as error:
            raise DataError(f"{self.path}: imgs differ in shape ({error}). {REMEDY}") from error
        if pictures.dtype.kind == "f" and pictures.min() >= 0 and pictures.max() <= 1:
            pictures = np.rint(255 * pictures).astype(np.uint8)
        if pictures.dtype != np.uint8 or pictures.shape[1:] != SIZE:
            raise DataError(f"{self.path}: imgs are {pictures.dtype} {list(pictures.shape)}, not 50x50. {REMEDY}")
        return pictures

    def _stored(self, header_only: bool = False) -> np.ndarray:
        """`imgs` as it is in the file, or with `header_only` an array that has its length and takes no memory."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open("imgs.npy") as file:
                version = np.lib.format.read_magic(file)
                read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = read_header[version](file)
                if header_only:
                    return np.broadcast_to(np.uint8(0), shape)
                if dtype.hasobject:
                    return read_pickle(file, f"{self.path}: imgs")
            with np.load(self.path, allow_pickle=False) as archive:
                return archive["imgs"]
        except FileNotFoundError as error:
            raise DataError(f"{self.path}: no such file. {REMEDY}") from error
        except DataError:
            raise
        except Exception as error:  # zipfile raises many kinds on a damaged archive
            raise DataError(f"{self.path}: imgs cannot be read ({error!r}). {REMEDY}") from error
