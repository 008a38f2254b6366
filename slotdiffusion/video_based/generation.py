"""What models of videos generate, see `slotdiffusion.framework.generation`."""

from typing import Any

import torch

from core.data.clip_reader import ClipReader
from slotdiffusion import video_based
from slotdiffusion.framework.generation import Medium, Scores
from slotdiffusion.framework.output_folders import VideoFolder, fvd
from slotdiffusion.video_based.data import open_data
from slotformer.framework.params import BaseParams

MODELS = ("SAViDiffusion", "SAVi", "STEVE")
"""That have slots and pictures of them."""


def open_test_videos(params: BaseParams) -> tuple[ClipReader, dict[str, Any]]:
    """Whole videos, and what decides which frames they have.

    Of the test split; of Physion's training and readout subsets, which have none, of the validation's.
    """
    has_test = params.dataset in ("movi", "steve_movi", "physion_test", "folder")
    source = open_data(params, "test" if has_test else "val", None)
    keys = ("dataset", "movi_level", "tasks", "data_root", "resolution", "video_len", "frame_offset")
    return source, {key: params.to_dict()[key] for key in keys if key in params} | {"split": source.path.name}


def distance(
    real: VideoFolder, generated: VideoFolder, source: ClipReader, device: torch.device
) -> tuple[Scores, str | None]:
    """FVD."""
    return fvd(real, generated, range(len(source)), source.num_frames, device)


VIDEOS = Medium(video_based, MODELS, "videos", VideoFolder, "vids", open_test_videos, distance)
