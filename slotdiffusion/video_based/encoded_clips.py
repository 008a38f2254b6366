"""Clips with what a frozen autoencoder says of their frames, see `slotdiffusion.framework.frozen_codes`."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from core.data.clip_reader import ClipReader
from core.data.clips import cut_clips
from core.data.loader import Batch, BatchSource
from core.data.video import stamp
from slotdiffusion.framework.frozen_codes import codes_of, encoded_once
from slotformer.framework.params import BaseParams


class EncodedClips:
    """`clips` that also give `key`, (n, T, *shape): what an encoder has said of the frames, which `codes` holds.

    codes: [V, L, *shape] of all frames of all videos.
    """

    def __init__(self, clips: ClipReader, key: str, codes: np.ndarray):
        self.source = clips
        self.key = key
        self.codes = codes
        self.path = clips.path

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: np.ndarray) -> Batch:
        """The samples of `indices`, in that order."""
        source = self.source
        codes = cut_clips(self.codes, source.clips[indices], source.num_frames, source.frame_offset)
        return {**source.read(indices), self.key: torch.from_numpy(codes)}


def encoded_clips(params: BaseParams, clips: ClipReader, frames: ClipReader) -> BatchSource:
    """`clips` with `latents` for SAViDiffusion, with `token_id` for STEVE; as they are where nothing encodes them.

    `frames` are the videos that they are cut from. What is not in the cache yet is made now.
    """
    codes = codes_of(params)
    if codes is None:
        return clips
    length, count = frames.num_frames, len(frames)

    def pictures(begin: int, end: int) -> UInt8[Tensor, "F 3 H W"]:
        videos = np.arange(begin // length, (end - 1) // length + 1)
        return frames.read(videos)["video"].flatten(0, 1)[begin - videos[0] * length :][: end - begin]

    height, width = frames.image_size
    recipe = f"{height}x{width}-{stamp(frames.path, frames.sources, frames.stems)}"
    found = encoded_once(codes, frames.path, recipe, count * length, pictures)
    return EncodedClips(clips, codes.key, found.reshape(count, length, *codes.shape))
