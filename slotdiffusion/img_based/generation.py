"""What models of pictures generate, see `slotdiffusion.framework.generation`."""

from typing import Any

import torch

from core.data.loader import BatchSource
from slotdiffusion import img_based
from slotdiffusion.framework.generation import Medium, Scores
from slotdiffusion.framework.output_folders import PictureFolder, fid
from slotdiffusion.img_based.data import open_split
from slotformer.framework.params import BaseParams

MODELS = ("SADiffusion", "SA", "SLATE")
"""That have slots and pictures of them."""


def open_test_pictures(params: BaseParams) -> tuple[BatchSource, dict[str, Any]]:
    """The test split, and what decides which pictures it has."""
    keys = ("dataset", "data_root", "resolution", "max_obj")
    return open_split(params, "test", False), {key: params.to_dict()[key] for key in keys if key in params}


def distance(
    real: PictureFolder, generated: PictureFolder, source: BatchSource, device: torch.device
) -> tuple[Scores, str | None]:
    """FID."""
    return fid(real, generated, range(len(source)), device)


PICTURES = Medium(img_based, MODELS, "pictures", PictureFolder, "imgs", open_test_pictures, distance)
