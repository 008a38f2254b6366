"""SlotFormer (Wu et al. 2023): predicts the slots of a video, and pictures of them by the decoder that SAVi has learnt.

Shapes: B videos, T = P + K frames, of which P are seen and K predicted, N slots, D slot size.
"""

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from core.nn.conv_blocks import Norm
from core.nn.noise import Noise
from core.nn.soft_position import SoftPositionEmbed
from core.nn.summed_parts import sum_over_parts
from core.types import Decomposition
from slotformer.base_slots.models.decoder import BroadcastDecoder
from slotformer.base_slots.models.pixel_autoencoder import Pictures, decode_slots
from slotformer.framework.annealing import temporal_weights
from slotformer.video_prediction.models.rollouter import SlotRollouter

STEPS_REPORTED = 6
"""First predicted frames, each of which has a term of its own in evaluation."""


def split_clip(
    slots: Float[Tensor, "B T N D"], history_len: int, rollout_len: int
) -> tuple[Float[Tensor, "B P N D"], Float[Tensor, "B K N D"]]:
    """What a model sees of a clip, and what it is to predict. Raises ValueError if the clip has another length."""
    if slots.shape[1] != history_len + rollout_len:
        raise ValueError(
            f"clips of {slots.shape[1]} frames, but history_len={history_len} and rollout_len={rollout_len} make "
            f"{history_len + rollout_len}: set n_sample_frames to it"
        )
    return slots.tensor_split([history_len], dim=1)


def frame_shares(
    batch_size: int,
    rollout_len: int,
    history_len: int,
    vid_len: Integer[Tensor, " B"] | None,
    mean_frames: Float[Tensor, " B"] | None,
    device: torch.device,
) -> Float[Tensor, "B K"]:
    """The share of each predicted frame in a mean over those that count: all, but from number `vid_len` on none.

    `mean_frames` is how many count in a video, on the average over a larger whole of which the videos are a part; the
    mean of such parts of one size is that of the whole.
    """
    counts = torch.ones(batch_size, rollout_len, device=device)
    if vid_len is not None:
        numbers = history_len + torch.arange(rollout_len, device=device)
        counts = (numbers < vid_len[:, None]).float()
    if mean_frames is not None:
        return counts / (batch_size * mean_frames[:, None])
    return counts / counts.sum().clamp(min=1)


class SlotFormer(nn.Module):
    """SlotFormer for slots of pictures of `resolution` (h, w); sees `history_len` frames, then `rollout_len` follow.

    It predicts from the newest `cond_len` frames (None: `history_len`). SAVi's decoder is frozen and begins untrained:
    load its weights into `decoder` and `decoder_pos_embedding`. With `use_img_recon_loss` the pictures of predicted
    slots are compared, too; in evaluation mode always. Training decodes `frames_per_part` frames at a time, which
    bounds the memory and changes no number beyond rounding; None chooses: one on the CPU, whose caches it suits, all on
    a GPU.
    """

    def __init__(
        self,
        resolution: tuple[int, int] = (64, 64),
        num_slots: int = 6,
        slot_size: int = 128,
        dec_channels: tuple[int, ...] = (128, 64, 64, 64, 64),
        dec_resolution: tuple[int, int] = (8, 8),
        dec_ks: int = 5,
        dec_norm: Norm = "",
        history_len: int = 6,
        cond_len: int | None = None,
        t_pe: str = "sin",
        slots_pe: str = "",
        d_model: int = 128,
        num_layers: int = 4,
        num_heads: int = 8,
        ffn_dim: int = 512,
        norm_first: bool = True,
        rollout_len: int = 10,
        use_img_recon_loss: bool = True,
        slot_recon_loss_w: float = 1.0,
        img_recon_loss_w: float = 1.0,
        dropout: float = 0.1,
        frames_per_part: int | None = None,
    ):
        if dec_channels[0] != slot_size:
            raise ValueError(f"dec_channels={tuple(dec_channels)} must begin with slot_size={slot_size}")
        super().__init__()
        self.history_len = history_len
        self.rollout_len = rollout_len
        self.use_img_recon_loss = use_img_recon_loss
        self.slot_recon_loss_w = slot_recon_loss_w
        self.img_recon_loss_w = img_recon_loss_w
        self.frames_per_part = frames_per_part
        self.loss_decay_factor = 1.0
        """How much the slots of a predicted frame count in training beside those of the frame before it."""
        self.decoder = BroadcastDecoder(dec_channels, dec_resolution, dec_ks, dec_norm, resolution)
        self.decoder_pos_embedding = SoftPositionEmbed(slot_size, dec_resolution)
        self.decoder.requires_grad_(False)
        self.decoder_pos_embedding.requires_grad_(False)
        transformer = (d_model, num_layers, num_heads, ffn_dim, norm_first, dropout)
        self.rollouter = SlotRollouter(num_slots, slot_size, cond_len or history_len, t_pe, slots_pe, *transformer)

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Weighted sum of the terms for `batch["slots"]` (B, T, N, D).

        Terms: `slot_recon_loss`, the mean squared error of predicted slots, and `img_recon_loss`, that of their
        pictures in [-1, 1], for which `batch["video"]` (B, T, 3, H, W) in [0, 1] is needed. In evaluation mode also
        `slot_recon_loss_1` to `_6`, of the first predicted frames each by itself, whatever their weights.
        `batch["vid_len"]` (B,), if given, is how many frames of a video count; the others repeat the last. For
        `batch["mean_frames"]` (B,) see `frame_shares`.
        """
        past, future = split_clip(batch["slots"], self.history_len, self.rollout_len)
        predicted = self.rollouter(past, self.rollout_len)
        errors = (predicted - future).square().mean(dim=(2, 3))
        lengths, mean_frames = batch.get("vid_len"), batch.get("mean_frames")
        shares = frame_shares(*errors.shape, self.history_len, lengths, mean_frames, errors.device)
        factor = self.loss_decay_factor if self.training else 1.0
        weights = temporal_weights(factor, self.rollout_len).to(past.device)
        terms = {"slot_recon_loss": (errors * weights * shares).sum()}
        total = self.slot_recon_loss_w * terms["slot_recon_loss"]
        if self.use_img_recon_loss or (not self.training and "video" in batch):
            frames = 2 * batch["video"][:, self.history_len :] - 1
            terms["img_recon_loss"] = self._picture_error(predicted, frames, shares)
            total = total + self.img_recon_loss_w * terms["img_recon_loss"]
        if not self.training:
            of_steps = errors.mean(dim=0)[:STEPS_REPORTED].unbind()
            terms |= {f"slot_recon_loss_{number}": value for number, value in enumerate(of_steps, 1)}
        return {"loss": total, **terms}

    def rollout(self, past: Float[Tensor, "B P N D"], num_steps: int) -> Float[Tensor, "B K N D"]:
        """The slots of the `num_steps` frames that follow `past`, of which the newest `history_len` are looked at."""
        return self.rollouter(past[:, -self.history_len :], num_steps)

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """Pictures, cut to [0, 1], of the first `history_len` frames of `batch["slots"]` and of predictions after them.

        Nothing is drawn.
        """
        past, future = batch["slots"].tensor_split([self.history_len], dim=1)
        return self.draw(torch.cat([past, self.rollout(past, future.shape[1])], dim=1))

    def draw(self, slots: Float[Tensor, "B T N D"]) -> Decomposition:
        """Pictures of slots, cut to [0, 1]; frame by frame."""
        recon, rgb, masks = (torch.cat(values, dim=1) for values in zip(*map(self.decode, slots.split(1, dim=1))))
        return Decomposition((recon / 2 + 0.5).clamp(0, 1), masks, (rgb / 2 + 0.5).clamp(0, 1), slots)

    def decode(self, slots: Float[Tensor, "B T N D"]) -> Pictures:
        """Pictures in [-1, 1] of slots."""
        return decode_slots(slots, self.decoder, self.decoder_pos_embedding)

    def _picture_error(
        self, slots: Float[Tensor, "B K N D"], video: Float[Tensor, "B K 3 H W"], shares: Float[Tensor, "B K"]
    ) -> Float[Tensor, ""]:
        """Mean squared error, of every frame as much as its share."""

        def error(
            slots: Float[Tensor, "F N D"], frames: Float[Tensor, "F 3 H W"], shares: Float[Tensor, " F"]
        ) -> Float[Tensor, ""]:
            return ((self.decode(slots[None]).recon[0] - frames).square().mean(dim=(1, 2, 3)) * shares).sum()

        frames = slots.flatten(0, 1), video.flatten(0, 1), shares.flatten()
        size = self.frames_per_part or (1 if video.device.type == "cpu" else len(frames[0]))
        parameters = [*self.decoder.parameters(), *self.decoder_pos_embedding.parameters()]
        return sum_over_parts(error, frames, (), parameters, size)
