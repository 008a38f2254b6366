"""Discrete VAE (Ramesh et al. 2021; van den Oord et al. 2017): pictures as a grid of words, one for 4x4 pixels.

Shapes: N frames, L = h * w words of a frame (h = H / 4, w = W / 4, row by row), V the vocabulary.
Differs from the original code, with equal numbers: words are looked up instead of multiplied as one-hot vectors, and
the layers on both sides of the vocabulary go through few words at a time, so that their V numbers stay in the cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core.nn.linear import linear
from core.nn.noise import Noise, ShardedNoise, exponential, standard_exponential
from core.nn.slot_chunks import FLOATS_IN_CACHE
from core.types import Decomposition

DOWN_FACTOR = 4
"""Pixels along a side of what one word describes."""


def gumbel_softmax(
    logits: Float[Tensor, "*batch V"], exponentials: Float[Tensor, "*batch V"], tau: float
) -> Float[Tensor, "*batch V"]:
    """A sample of the relaxed categorical distribution (Jang et al. 2017, equation 2), from Exp(1) draws. Float32.

    The logits need not be normalised.
    """
    return (logits - exponentials.log()).div_(tau).softmax(dim=-1)


class Block(nn.Module):
    """Convolution without bias, group norm with one group, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int = 1, stride: int = 1, padding: int = 0):
        super().__init__()
        self.m = nn.Conv2d(channels_in, channels_out, kernel_size, stride, padding, bias=False)
        self.weight = nn.Parameter(torch.ones(channels_out))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        nn.init.kaiming_uniform_(self.m.weight, nonlinearity="relu")

    def forward(self, inputs: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C2 H2 W2"]:
        if self.m.kernel_size == (1, 1):
            rows = linear(inputs.permute(0, 2, 3, 1), self.m.weight.flatten(1))
            return self.activate(rows.permute(0, 3, 1, 2))
        return self.activate(self.m(inputs))

    def activate(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        return F.relu_(F.group_norm(features, 1, self.weight, self.bias))


def pointwise(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 1x1 convolution as the dVAE initialises it."""
    convolution = nn.Conv2d(channels_in, channels_out, 1)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution


@dataclass
class Reconstruction:
    """What a pass through the codes gave."""

    recon: Float[Tensor, "*batch 3 H W"]
    """In [-1, 1] but for errors."""
    z_logits: Float[Tensor, "*batch V h w"] | None
    """Log-probabilities of the words, if asked for."""


class dVAE(nn.Module):
    """Discrete VAE of SlotFormer and STEVE for `vocab_size` words; its pictures have sides divisible by 4.

    `tau` is the temperature of the relaxed words; training lowers it from step to step.
    """

    def __init__(self, vocab_size: int = 4096, img_channels: int = 3, init_tau: float = 1.0, recon_loss_w: float = 1.0):
        super().__init__()
        self.vocab_size = vocab_size
        self.tau = init_tau
        self.recon_loss_w = recon_loss_w
        self.encoder = nn.Sequential(
            Block(img_channels, 64, DOWN_FACTOR, DOWN_FACTOR),
            *(Block(64, 64) for _ in range(6)),
            pointwise(64, vocab_size),
        )
        self.decoder = nn.Sequential(
            Block(vocab_size, 64),
            Block(64, 64, 3, padding=1),
            Block(64, 64),
            Block(64, 64),
            Block(64, 256),
            nn.PixelShuffle(2),
            Block(64, 64, 3, padding=1),
            Block(64, 64),
            Block(64, 64),
            Block(64, 256),
            nn.PixelShuffle(2),
            pointwise(64, img_channels),
        )
        self.noise: ShardedNoise | None = None
        """Set by a training run, so that the draws are a function of (seed, step); else the global generator draws."""

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Mean squared error of the relaxed reconstruction; `batch["video"]` (B, T, 3, H, W) in [0, 1]."""
        video = 2 * batch["video"] - 1
        noise = self.noise.at(step, video.device, exponential) if self.noise else None
        recon_loss = F.mse_loss(self(video, noise).recon.to(video.dtype), video)
        return {"loss": self.recon_loss_w * recon_loss, "recon_loss": recon_loss}

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Decomposition:
        """The picture that the most likely words give, and one mask that covers it: a dVAE has no slots.

        Nothing is drawn. Extras: `tokens` (B, T, h, w).
        """
        video = batch["video"]
        tokens = self.tokenize(2 * video - 1)
        recon = (self.detokenize(tokens).float() / 2 + 0.5).clamp(0, 1)
        return Decomposition(recon=recon, masks=torch.ones_like(recon[:, :, :1]), extras={"tokens": tokens})

    def forward(
        self,
        images: Float[Tensor, "*batch 3 H W"],
        noise: Noise | None = None,
        hard: bool = False,
        with_logits: bool = False,
    ) -> Reconstruction:
        """Reconstruct `images` in [-1, 1] through relaxed words or, if `hard`, straight-through one-hot ones.

        The one draw, `words` (B, ..., h * w, V), is Exp(1).
        """
        size = [length // DOWN_FACTOR for length in images.shape[-2:]]
        draw = noise or standard_exponential(images.device)
        draws = draw("words", (*images.shape[:-3], size[0] * size[1], self.vocab_size))
        features = self.features(images)
        recon = self.decode_relaxed(features, self.word_logits, draws.flatten(0, -2), self.tau, size, hard)
        recon = recon.unflatten(0, images.shape[:-3])
        if not with_logits:
            return Reconstruction(recon, None)
        logits = self.word_logits(features).float().log_softmax(dim=-1)
        return Reconstruction(recon, logits.unflatten(0, (*images.shape[:-3], *size)).movedim(-1, -3))

    def decode_relaxed(
        self,
        features: Float[Tensor, "P F"],
        to_logits: Callable[[Tensor], Tensor],
        exponentials: Float[Tensor, "P V"],
        tau: float,
        size: Sequence[int],
        hard: bool = False,
    ) -> Float[Tensor, "N 3 H W"]:
        """The pictures of relaxed words, sampled by `gumbel_softmax` from `to_logits(features)`.

        P runs over frames of `size` (h, w) words; `hard` words are one-hot, with the gradient of the relaxed ones.
        """
        embedded = []
        for few, few_exponentials in zip(self.split(features), self.split(exponentials)):
            words = gumbel_softmax(to_logits(few), few_exponentials, tau)
            if hard:
                words = F.one_hot(words.argmax(dim=-1), self.vocab_size) - words.detach() + words
            embedded.append(linear(words, self.decoder[0].m.weight.flatten(1)))
        return self.decode(torch.cat(embedded).unflatten(0, (-1, *size)))

    def tokenize(self, images: Float[Tensor, "*batch 3 H W"]) -> Int64[Tensor, "*batch h w"]:
        """The most likely words of `images` in [-1, 1]."""
        with torch.no_grad():
            words = [self.word_logits(few).argmax(dim=-1) for few in self.split(self.features(images))]
        size = [length // DOWN_FACTOR for length in images.shape[-2:]]
        return torch.cat(words).view(*images.shape[:-3], *size)

    def detokenize(self, tokens: Int64[Tensor, "*batch h w"]) -> Float[Tensor, "*batch 3 H W"]:
        """The picture of words, in [-1, 1] but for errors."""
        embedded = F.embedding(tokens.flatten(0, -3), self.decoder[0].m.weight.flatten(1).T)
        return self.decode(embedded).unflatten(0, tokens.shape[:-2])

    def features(self, images: Float[Tensor, "*batch 3 H W"]) -> Float[Tensor, "NL 64"]:
        """What the encoder says of every word's place, before the layer that names the words."""
        height, width = images.shape[-2:]
        if height % DOWN_FACTOR or width % DOWN_FACTOR:
            raise ValueError(
                f"dVAE: frames of {height}x{width}, but a word describes {DOWN_FACTOR}x{DOWN_FACTOR} pixels: "
                f"set `resolution` to multiples of {DOWN_FACTOR}"
            )
        frames = images.flatten(0, -4).contiguous(memory_format=torch.channels_last)
        return self.encoder[:-1](frames).permute(0, 2, 3, 1).flatten(0, 2)

    def word_logits(self, features: Float[Tensor, "P 64"]) -> Float[Tensor, "P V"]:
        return linear(features, self.encoder[-1].weight.flatten(1), self.encoder[-1].bias)

    def decode(self, embedded: Float[Tensor, "N h w 64"]) -> Float[Tensor, "N 3 H W"]:
        """Pictures from what the first convolution of the decoder makes of the words."""
        return self.decoder[1:](self.decoder[0].activate(embedded.permute(0, 3, 1, 2)))

    def split(self, places: Float[Tensor, "P F"]) -> tuple[Tensor, ...]:
        """All places in one piece, but on the CPU so few in each that their words' probabilities stay in the cache."""
        together = max(1, FLOATS_IN_CACHE // self.vocab_size) if places.device.type == "cpu" else max(1, len(places))
        return places.split(together)
