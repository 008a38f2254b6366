"""Slots of videos from which a transformer predicts the words of a discrete VAE: what STEVE's variants share.

Shapes: B videos, T frames, N slots, D slot size, L words of a frame, V the vocabulary. Differs from the original code,
with equal numbers, in what `encoder`, `token_decoder` and `dvae` say of themselves.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from core.nn.noise import Noise, ShardedNoise, exponential, standard_exponential, standard_normal
from core.types import Decomposition
from slotformer.base_slots.models.dvae import DOWN_FACTOR, dVAE
from slotformer.base_slots.models.encoder import ClipState, SlotVideoEncoder, Track
from slotformer.base_slots.models.linear_cross_entropy import linear_cross_entropy
from slotformer.base_slots.models.token_decoder import TokenDecoder

PICTURE_TAU = 0.1
"""Temperature of the relaxed words in the image loss."""


class TokenAutoencoder(SlotVideoEncoder):
    """A slot encoder, a frozen dVAE of `vocab_size` words, and a decoder from slots to the words of a frame.

    A model adds the two by `add_token_decoder`. The dVAE begins untrained: load its weights into `dvae`, or those of a
    whole model.
    """

    def add_token_decoder(
        self,
        resolution: tuple[int, int],
        down_factor: int,
        vocab_size: int,
        dec_num_layers: int,
        dec_num_heads: int,
        dec_d_model: int,
        dropout: float,
    ) -> None:
        """The last part but one of the constructor. Raises ValueError where sizes do not fit."""
        slot_size = self.init_latents.shape[-1]
        if down_factor != DOWN_FACTOR:
            raise ValueError(
                f"down_factor={down_factor}: a word of the dVAE describes {DOWN_FACTOR}x{DOWN_FACTOR} pixels"
            )
        if dec_d_model != slot_size:
            raise ValueError(
                f"dec_d_model={dec_d_model} must be slot_size={slot_size}: the decoder reads slots as they are"
            )
        self.words_size = (resolution[0] // DOWN_FACTOR, resolution[1] // DOWN_FACTOR)
        num_tokens = self.words_size[0] * self.words_size[1]
        self.dvae = dVAE(vocab_size).requires_grad_(False)
        self.trans_decoder = TokenDecoder(vocab_size, dec_d_model, dec_num_heads, dec_num_layers, num_tokens, dropout)

    def set_losses(self, use_img_recon_loss: bool, token_recon_loss_w: float, img_recon_loss_w: float) -> None:
        """The last part of the constructor: the terms of the loss, and their weights."""
        self.use_img_recon_loss = use_img_recon_loss
        self.token_recon_loss_w = token_recon_loss_w
        self.img_recon_loss_w = img_recon_loss_w
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Weighted sum of the terms for `batch["video"]` (B, T, 3, H, W) in [0, 1], in one pass whatever T.

        Terms: `token_recon_loss`, the cross entropy in nats per word, and, if used, `img_recon_loss`, the mean squared
        error in [-1, 1] of the pictures that relaxed words give; these need the one draw, `words` (B, T, L, V), Exp(1).
        `batch["token_id"]` (B, T, L) holds the words of the frames; without it the dVAE is asked.
        """
        video = 2 * batch["video"] - 1
        return self.terms(self.track(video, standard_normal(video.device)).slots, batch, step)

    def terms(self, slots: Float[Tensor, "B T N D"], batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Those of `loss`, where the slots of all frames are known."""
        video, slots, tokens = 2 * batch["video"] - 1, slots.flatten(0, 1), self.target_tokens(batch)
        if not self.use_img_recon_loss:
            token_loss = self.trans_decoder.loss(slots, tokens)
            return {"loss": self.token_recon_loss_w * token_loss, "token_recon_loss": token_loss}
        noise = self.noise.at(step, video.device, exponential) if self.noise else standard_exponential(video.device)
        draws = noise("words", (*video.shape[:2], tokens.shape[1], self.dvae.vocab_size)).flatten(0, 2)
        token_loss, recon = self.loss_and_pictures(slots, tokens, draws)
        img_loss = F.mse_loss(recon.float(), video.flatten(0, 1))
        total = self.token_recon_loss_w * token_loss + self.img_recon_loss_w * img_loss
        return {"loss": total, "token_recon_loss": token_loss, "img_recon_loss": img_loss}

    def loss_and_pictures(
        self, slots: Float[Tensor, "F N D"], tokens: Int64[Tensor, "F L"], exponentials: Float[Tensor, "FL V"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "F 3 H W"]]:
        """Cross entropy of true words, and pictures in [-1, 1] of relaxed words that are sampled where they stand."""
        features, head = self.trans_decoder.features(slots, tokens[:, :-1]).flatten(0, 1), self.trans_decoder.head
        token_loss = linear_cross_entropy(features, head.weight, tokens.flatten()) / tokens.numel()
        return token_loss, self.dvae.decode_relaxed(features, head, exponentials, PICTURE_TAU, self.words_size)

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None, generate: bool = False) -> Decomposition:
        """Slots of all frames and the attention of the last iteration as masks; `clip_len` frames at a time.

        Nothing is drawn. `recon` shows for each word the most likely one given the slots and the true words before it,
        which is cheap; with `generate` given the slots alone, the best word after the best word, which takes as many
        passes as a frame has words and needs eval mode. There is no picture of each slot.
        """
        video = batch["video"]
        pictures, masks, slots, begin = [], [], [], 0
        for track in self._tracks(video):
            frames = slice(begin, begin + track.slots.shape[1])
            begin = frames.stop
            clip = {key: batch[key][:, frames] for key in ("video", "token_id") if key in batch}
            pictures.append(self._picture(track.slots, clip, generate))
            masks.append(self.masks(track, video.shape[-2:]))
            slots.append(track.slots)
        recon = (torch.cat(pictures, dim=1) / 2 + 0.5).clamp(0, 1)
        return Decomposition(recon=recon, masks=torch.cat(masks, dim=1), slots=torch.cat(slots, dim=1))

    def decompose_next(
        self,
        batch: dict[str, Tensor],
        noise: Noise | None = None,
        state: ClipState | None = None,
        generate: bool = False,
    ) -> tuple[Decomposition, ClipState]:
        """As `decompose`, of a clip that begins where one left `state`; also what it leaves itself."""
        video = batch["video"]
        track = self.track(2 * video - 1, standard_normal(video.device), state)
        recon = (self._picture(track.slots, batch, generate) / 2 + 0.5).clamp(0, 1)
        masks = self.masks(track, video.shape[-2:])
        return Decomposition(recon=recon, masks=masks, slots=track.slots), track.state

    def segment(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Float[Tensor, "B T N H W"]:
        """The masks of `decompose` alone."""
        size = batch["video"].shape[-2:]
        return torch.cat([self.masks(track, size) for track in self._tracks(batch["video"])], dim=1)

    def extract(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Float[Tensor, "B T N D"]:
        """Slots of all frames, without masks and pictures. Nothing is drawn."""
        return torch.cat([track.slots for track in self._tracks(batch["video"])], dim=1)

    def target_tokens(self, batch: dict[str, Tensor]) -> Int64[Tensor, "F L"]:
        """Words of all F = B T frames: `batch["token_id"]`, or else what the dVAE says of `batch["video"]`.

        Raises ValueError if frames have another number of words.
        """
        if "token_id" not in batch:
            return self.dvae.tokenize(2 * batch["video"] - 1).flatten(0, 1).flatten(1)
        tokens = batch["token_id"]
        if tokens.shape[-1] != self.trans_decoder.num_tokens:
            height, width = self.words_size
            raise ValueError(
                f"token_id: {tokens.shape[-1]} words per frame, expected {height} x {width} = {height * width}: were "
                "they made at another resolution? Run slotformer/base_slots/tokenize_images.py again"
            )
        return tokens.flatten(0, 1).long()

    def _picture(self, slots: Float[Tensor, "B T N D"], clip: dict[str, Tensor], generate: bool) -> Tensor:
        if generate:
            tokens = self.trans_decoder.generate(slots.flatten(0, 1)).tokens
        else:
            tokens = self.trans_decoder.most_likely(slots.flatten(0, 1), self.target_tokens(clip))
        pictures = self.dvae.detokenize(tokens.unflatten(1, self.words_size)).float()
        return pictures.unflatten(0, slots.shape[:2])

    def _tracks(self, video: Float[Tensor, "B T 3 H W"]) -> Iterator[Track]:
        return self.track_clips(2 * video - 1, standard_normal(video.device))
