"""Slots of videos and the pictures that a spatial broadcast decoder makes of them: what SAVi's variants share.

Shapes: B videos, T frames, N slots, D slot size. Differs from the original code, with equal numbers: attention makes no
keys and values, inputs of all frames are normalised at once, and the decoder's first layer sees no broadcast slot.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from core.nn.conv_blocks import Norm
from core.nn.noise import Noise, standard_normal
from core.nn.soft_position import SoftPositionEmbed
from core.nn.summed_parts import sum_over_parts
from core.types import Decomposition
from slotformer.base_slots.models.decoder import BroadcastDecoder
from slotformer.base_slots.models.encoder import ClipState, SlotVideoEncoder, Track


class Pictures(NamedTuple):
    """What the decoder makes of slots; neither picture is squashed into [-1, 1]."""

    recon: Float[Tensor, "B T 3 H W"]
    rgb: Float[Tensor, "B T N 3 H W"]
    masks: Float[Tensor, "B T N H W"]


def decode_slots(slots: Float[Tensor, "B T N D"], decoder: BroadcastDecoder, position: SoftPositionEmbed) -> Pictures:
    """Pictures of all slots of all frames; masks sum to one over N."""
    pictures = decoder(slots.flatten(0, 2), position.codes()).unflatten(0, slots.shape[:3])
    rgb, masks = pictures[:, :, :, :3], pictures[:, :, :, 3].softmax(dim=2)
    return Pictures((masks[:, :, :, None] * rgb).sum(dim=2), rgb, masks)


def _decomposition(slots: Float[Tensor, "B T N D"], pictures: Pictures) -> Decomposition:
    return Decomposition(
        recon=(pictures.recon / 2 + 0.5).clamp(0, 1),
        masks=pictures.masks,
        rgb=(pictures.rgb / 2 + 0.5).clamp(0, 1),
        slots=slots,
    )


class PixelAutoencoder(SlotVideoEncoder):
    """A slot encoder and a decoder to pixels, which a model adds by `add_decoder` and trains by `reconstruction_error`.

    Training decodes `frames_per_part` frames at a time, which bounds the memory and changes no number beyond rounding;
    None chooses: one on the CPU, whose caches it suits, all on a GPU.
    """

    def add_decoder(
        self,
        dec_channels: tuple[int, ...],
        dec_resolution: tuple[int, int],
        dec_ks: int,
        dec_norm: Norm,
        resolution: tuple[int, int],
        frames_per_part: int | None,
    ) -> None:
        """The last part of the constructor. Raises ValueError if the channels do not begin with the slot size."""
        slot_size = self.init_latents.shape[-1]
        if dec_channels[0] != slot_size:
            raise ValueError(f"dec_channels={tuple(dec_channels)} must begin with slot_size={slot_size}")
        self.decoder = BroadcastDecoder(dec_channels, dec_resolution, dec_ks, dec_norm, resolution)
        self.decoder_pos_embedding = SoftPositionEmbed(slot_size, dec_resolution)
        self.frames_per_part = frames_per_part

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """Slots of all frames and their pictures, cut to [0, 1]; `clip_len` frames at a time."""
        tracks = self._tracks(batch, noise)
        slots, pictures = zip(*((track.slots, self.decode(track.slots)) for track in tracks))
        recon, rgb, masks = (torch.cat(values, dim=1) for values in zip(*pictures))
        return _decomposition(torch.cat(slots, dim=1), Pictures(recon, rgb, masks))

    def decompose_next(
        self, batch: dict[str, Tensor], noise: Noise | None = None, state: ClipState | None = None
    ) -> tuple[Decomposition, ClipState]:
        """As `decompose`, of a clip that begins where one left `state`; also what it leaves itself."""
        video = 2 * batch["video"] - 1
        track = self.track(video, noise or standard_normal(video.device), state)
        return _decomposition(track.slots, self.decode(track.slots)), track.state

    def segment(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Float[Tensor, "B T N H W"]:
        """The masks of `decompose` alone."""
        return torch.cat([self.decode(track.slots).masks for track in self._tracks(batch, noise)], dim=1)

    def extract(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Float[Tensor, "B T N D"]:
        """Slots of all frames, without pictures."""
        return torch.cat([track.slots for track in self._tracks(batch, noise)], dim=1)

    def decode(self, slots: Float[Tensor, "B T N D"]) -> Pictures:
        """Pictures in [-1, 1] of slots, also of those that another model predicts."""
        return decode_slots(slots, self.decoder, self.decoder_pos_embedding)

    def reconstruction_error(
        self, slots: Float[Tensor, "B T N D"], video: Float[Tensor, "B T 3 H W"]
    ) -> Float[Tensor, ""]:
        """Mean squared error of the slots' pictures, in [-1, 1]."""

        def error(slots: Float[Tensor, "S N D"], frames: Float[Tensor, "S 3 H W"]) -> Float[Tensor, ""]:
            return (self.decode(slots[None]).recon[0] - frames).square().sum()

        frames = video.flatten(0, 1)
        size = self.frames_per_part or (1 if video.device.type == "cpu" else len(frames))
        parameters = [*self.decoder.parameters(), *self.decoder_pos_embedding.parameters()]
        return sum_over_parts(error, (slots.flatten(0, 1), frames), (), parameters, size) / video.numel()

    def _tracks(self, batch: dict[str, Tensor], noise: Noise | None) -> Iterator[Track]:
        video = 2 * batch["video"] - 1
        return self.track_clips(video, noise or standard_normal(video.device))
