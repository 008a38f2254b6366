"""Pictures with what a frozen autoencoder says of them, see `slotdiffusion.framework.frozen_codes`."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from core.data.loader import Batch, BatchSource, VariedSource
from core.data.picture_reader import PictureReader
from core.data.video import stamp
from slotdiffusion.framework.frozen_codes import codes_of, encoded_once
from slotdiffusion.img_based import data
from slotformer.framework.params import BaseParams


class EncodedPictures:
    """`pictures` that also give `key`, (n, *shape): what an encoder has said of them, which `codes` holds."""

    def __init__(self, pictures: PictureReader, key: str, codes: np.ndarray):
        self.source = pictures
        self.key = key
        self.codes = codes
        self.path = pictures.path

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: np.ndarray) -> Batch:
        """The samples of `indices`, in that order."""
        return {**self.source.read(indices), self.key: torch.from_numpy(self.codes[indices])}


def build_dataset(params: BaseParams) -> tuple[BatchSource, BatchSource]:
    """For training and for validation, this with masks if there are any.

    Training pictures come with what a frozen VQ-VAE or dVAE says of them, unless they are varied.
    """
    training, validation = data.build_dataset(params)
    if params.get("cache_latents", True) and not isinstance(training, VariedSource):
        training = encoded_pictures(params, training)
    return training, validation


def encoded_pictures(params: BaseParams, source: PictureReader) -> BatchSource:
    """`source` with `latents` for SADiffusion, with `token_id` for SLATE; as it is where nothing encodes it.

    What is not in the cache yet is made now.
    """
    codes = codes_of(params)
    if codes is None:
        return source

    def pictures(begin: int, end: int) -> UInt8[Tensor, "F 3 H W"]:
        return source.read(np.arange(begin, end))["image"]

    recipe = f"{source.recipe}-{source.framing.key}-{stamp(source.path, source.sources)}"
    return EncodedPictures(source, codes.key, encoded_once(codes, source.path, recipe, len(source), pictures))
