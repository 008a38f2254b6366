"""SlotFormer (Wu et al. 2023) for the slots of STEVE, whose words show what it predicts.

Shapes: B videos, T = P + K frames, of which P are seen and K predicted, N slots, D slot size, L words of a frame, V the
vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core.nn.noise import Noise, standard_exponential
from slotformer.base_slots.models.dvae import DOWN_FACTOR, dVAE
from slotformer.base_slots.models.token_autoencoder import PICTURE_TAU
from slotformer.base_slots.models.token_decoder import TokenDecoder
from slotformer.video_prediction.models.rollouter import SlotRollouter
from slotformer.video_prediction.models.slotformer import split_clip


class WordPictures(NamedTuple):
    """What slots look like, word after word; pictures are in [-1, 1] but for errors."""

    tokens: Int64[Tensor, "B L"]
    """The best word after the best word."""
    soft: Float[Tensor, "B 3 H W"]
    """Of relaxed words."""
    hard: Float[Tensor, "B 3 H W"]
    """Of the words themselves."""


class STEVESlotFormer(nn.Module):
    """SlotFormer for STEVE's slots of pictures of `resolution`; sees `history_len` frames, then `rollout_len` follow.

    STEVE's dVAE and token decoder are frozen and begin untrained: load their weights into `dvae` and `decoder`. With
    `use_img_recon_loss` predicted slots must also give the right words. There are no masks, hence no `decompose`.
    """

    def __init__(
        self,
        resolution: tuple[int, int] = (128, 128),
        num_slots: int = 6,
        slot_size: int = 192,
        down_factor: int = 4,
        vocab_size: int = 4096,
        dec_num_layers: int = 4,
        dec_num_heads: int = 4,
        dec_d_model: int = 192,
        history_len: int = 15,
        t_pe: str = "sin",
        slots_pe: str = "",
        d_model: int = 256,
        num_layers: int = 8,
        num_heads: int = 8,
        ffn_dim: int = 1024,
        norm_first: bool = True,
        rollout_len: int = 10,
        use_img_recon_loss: bool = False,
        slot_recon_loss_w: float = 1.0,
        img_recon_loss_w: float = 1.0,
        dropout: float = 0.1,
    ):
        if down_factor != DOWN_FACTOR:
            raise ValueError(
                f"down_factor={down_factor}: a word of the dVAE describes {DOWN_FACTOR}x{DOWN_FACTOR} pixels"
            )
        if dec_d_model != slot_size:
            raise ValueError(
                f"dec_d_model={dec_d_model} must be slot_size={slot_size}: the decoder reads slots as they are"
            )
        super().__init__()
        self.history_len = history_len
        self.rollout_len = rollout_len
        self.use_img_recon_loss = use_img_recon_loss
        self.slot_recon_loss_w = slot_recon_loss_w
        self.img_recon_loss_w = img_recon_loss_w
        self.words_size = (resolution[0] // DOWN_FACTOR, resolution[1] // DOWN_FACTOR)
        num_tokens = self.words_size[0] * self.words_size[1]
        self.dvae = dVAE(vocab_size).requires_grad_(False)
        self.decoder = TokenDecoder(vocab_size, dec_d_model, dec_num_heads, dec_num_layers, num_tokens, dropout)
        self.decoder.requires_grad_(False)
        transformer = (d_model, num_layers, num_heads, ffn_dim, norm_first, dropout)
        self.rollouter = SlotRollouter(num_slots, slot_size, history_len, t_pe, slots_pe, *transformer)
        self.train()

    def train(self, mode: bool = True) -> "STEVESlotFormer":
        """Frozen parts stay in evaluation mode: there is no dropout in them."""
        super().train(mode)
        self.dvae.eval()
        self.decoder.eval()
        return self

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Weighted sum of the terms for `batch["slots"]` (B, T, N, D).

        Terms: `slot_recon_loss`, the mean squared error of predicted slots, and, if used, `img_recon_loss`, the cross
        entropy in nats per word of the predicted frames, for which `batch["token_id"]` (B, T, L) or `batch["video"]`
        (B, T, 3, H, W) in [0, 1] is needed.
        """
        past, future = split_clip(batch["slots"], self.history_len, self.rollout_len)
        predicted = self.rollouter(past, self.rollout_len)
        slot_loss = F.mse_loss(predicted, future)
        terms = {"loss": self.slot_recon_loss_w * slot_loss, "slot_recon_loss": slot_loss}
        if self.use_img_recon_loss:
            terms["img_recon_loss"] = self.decoder.loss(predicted.flatten(0, 1), self.target_tokens(batch))
            terms["loss"] = terms["loss"] + self.img_recon_loss_w * terms["img_recon_loss"]
        return terms

    def rollout(self, past: Float[Tensor, "B P N D"], num_steps: int) -> Float[Tensor, "B K N D"]:
        """The slots of the `num_steps` frames that follow `past`, of which the newest `history_len` are looked at."""
        return self.rollouter(past, num_steps)

    def target_tokens(self, batch: dict[str, Tensor]) -> Int64[Tensor, "F L"]:
        """Words of all F = B K predicted frames: of `batch["token_id"]`, or what the dVAE says of `batch["video"]`."""
        if "token_id" in batch:
            return batch["token_id"][:, self.history_len :].flatten(0, 1).long()
        video = 2 * batch["video"][:, self.history_len :] - 1
        return self.dvae.tokenize(video).flatten(0, 1).flatten(1)

    @torch.no_grad()
    def decode(self, slots: Float[Tensor, "B N D"], noise: Noise | None = None) -> WordPictures:
        """Pictures of slots, which take as many passes of the decoder as a frame has words.

        The one draw, `words` (B, L, V), is Exp(1).
        """
        found = self.decoder.generate(slots, with_logits=True)
        draw = noise or standard_exponential(slots.device)
        draws = draw("words", tuple(found.logits.shape))
        logits = found.logits.flatten(0, 1)
        soft = self.dvae.decode_relaxed(logits, nn.Identity(), draws.flatten(0, 1), PICTURE_TAU, self.words_size)
        return WordPictures(found.tokens, soft, self.dvae.detokenize(found.tokens.unflatten(1, self.words_size)))
