"""From videos to slots as SAVi (Kipf et al. 2022) does it: what SAVi, STEVE and their relatives share.

Shapes: B videos, T frames, N slots, D slot size, L positions, F features of each.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.conv_blocks import Norm, conv_block
from core.nn.linear import Linear
from core.nn.noise import Noise
from core.nn.slot_attention import SlotAttention
from core.nn.soft_position import SoftPositionEmbed
from slotformer.base_slots.models.predictors import Memory, Restart

LARGEST_GRID = 64
"""Pictures with more rows are halved."""


class ClipState(NamedTuple):
    """What a clip of a video hands over to the next."""

    slots: Float[Tensor, "B N D"]
    memory: Memory | None
    """Of the predictor."""


class Track(NamedTuple):
    """Slots of every frame of a clip, and how they were found."""

    slots: Float[Tensor, "B T N D"]
    attention: Float[Tensor, "B T N L"]
    """Of the last iteration, row by row; sums to one over N, without gradient."""
    origins: Float[Tensor, "B T N C"]
    """What `initial_slots` says the slots began from."""
    state: ClipState


def stride_of(resolution: tuple[int, int]) -> int:
    """Of the first convolution: 1 for the published 64x64, 2 for 128x128."""
    return 2 if resolution[0] > LARGEST_GRID else 1


def resized_masks(masks: Float[Tensor, "B T N h w"], size: Sequence[int]) -> Float[Tensor, "B T N H W"]:
    """Masks at `size` (H, W), interpolated bilinearly where they differ from it; their sums stay one."""
    if masks.shape[-2:] == tuple(size):
        return masks
    resized = F.interpolate(masks.flatten(0, 1), tuple(size), mode="bilinear", align_corners=False)
    return resized.unflatten(0, masks.shape[:2])


class ConvEncoder(nn.Sequential):
    """Convolutions to features, 64x64 of them at the published resolutions; no ReLU after the last."""

    def __init__(self, enc_channels: tuple[int, ...], enc_ks: int, enc_norm: Norm, resolution: tuple[int, int]):
        if enc_ks % 2 == 0:
            raise ValueError(f"enc_ks={enc_ks} is even, expected an odd size: features must lie where their pixels do")
        blocks, first = [], stride_of(resolution)
        for number, sizes in enumerate(pairwise(enc_channels), start=2):
            stride = first if number == 2 else 1
            blocks.append(conv_block(*sizes, enc_ks, stride, enc_norm, relu=number < len(enc_channels)))
        super().__init__(*blocks)
        self.channels = enc_channels[-1]
        self.grid = (-(-resolution[0] // first), -(-resolution[1] // first))


class SlotVideoEncoder(nn.Module):
    """Slot attention in every frame, from where `predictor` sees the slots of the frame before.

    In the first frame, with the predictor `Restart` in every frame, they begin at learned latents; without a predictor
    in the others where they were. Videos are
    (B, T, 3, H, W) in [-1, 1]. `make_encoder` gives the net that turns frames (S, 3, H, W) into features (S, C, h, w)
    and says C as `channels` and (h, w) as `grid`; it is called after slot attention has drawn its weights.
    """

    def __init__(
        self,
        make_encoder: Callable[[], nn.Module],
        predictor: nn.Module | None,
        clip_len: int,
        num_slots: int,
        slot_size: int,
        slot_mlp_size: int,
        num_iterations: int,
        enc_out_channels: int,
        eps: float,
    ):
        if num_iterations < 1:
            raise ValueError(f"num_iterations={num_iterations}, expected at least 1 iteration of slot attention")
        super().__init__()
        self.clip_len = clip_len
        self.init_latents = nn.Parameter(torch.randn(1, num_slots, slot_size))
        self.slot_attention = SlotAttention(enc_out_channels, slot_size, slot_mlp_size, num_iterations, eps)
        self.encoder = make_encoder()
        self.grid: tuple[int, int] = self.encoder.grid
        """Rows and columns of the features."""
        channels = self.encoder.channels
        self.encoder_pos_embedding = SoftPositionEmbed(channels, self.grid)
        self.encoder_out_layer = nn.Sequential(
            nn.LayerNorm(channels),
            Linear(channels, enc_out_channels),
            nn.ReLU(),
            Linear(enc_out_channels, enc_out_channels),
        )
        self.predictor = predictor

    def encode(self, video: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B T L F"]:
        """Features of every position of every frame, row by row."""
        frames = video.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features = self.encoder(frames).permute(0, 2, 3, 1) + self.encoder_pos_embedding.codes()
        # A matrix: of more axes a linear layer returns a view, which autograd copies for an activation in place.
        features = self.encoder_out_layer(features.flatten(0, 2))
        return features.view(*video.shape[:2], -1, features.shape[-1])

    def initial_slots(
        self, latents: Float[Tensor, "B N D"], noise: Noise
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N C"]]:
        """Where slot attention begins in a frame, and what that was made from."""
        return latents, latents

    def track(self, video: Float[Tensor, "B T 3 H W"], noise: Noise, state: ClipState | None = None) -> Track:
        """Slots of all frames in one pass; `state` is what the frames before have left, None at a video's beginning."""
        features = self.encode(video).float()
        found = []
        with torch.autocast(video.device.type, enabled=False):
            for frame in self.slot_attention.project(features).unbind(1):
                if state is None or isinstance(self.predictor, Restart):
                    latents, memory = self.init_latents.expand(len(video), -1, -1), None
                else:
                    latents, memory = self.predictor(*state) if self.predictor else state
                begin, origin = self.initial_slots(latents, noise)
                slots, attention = self.slot_attention.refine(frame, begin)
                state = ClipState(slots, memory)
                found.append((slots, attention, origin))
        slots, attention, origins = (torch.stack(values, dim=1) for values in zip(*found))
        return Track(slots, attention, origins, state)

    def track_clips(self, video: Float[Tensor, "B T 3 H W"], noise: Noise) -> Iterator[Track]:
        """As `track`, `clip_len` frames at a time, which bounds the memory and changes no number."""
        state = None
        for clip in video.split(self.clip_len, dim=1):
            track = self.track(clip, noise, state)
            state = track.state
            yield track

    def masks(self, track: Track, size: Sequence[int]) -> Float[Tensor, "B T N H W"]:
        """The attention of every frame's last iteration as masks of pictures of `size` (H, W); they sum to one."""
        return resized_masks(track.attention.unflatten(-1, self.grid), size)
