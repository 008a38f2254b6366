"""A small Slot Attention whose slots have a place, for quick runs on a CPU.

After the translation-invariant form of Invariant Slot Attention (Biza et al. 2023): a slot carries a position, attends
near it, moves to the mean position of what it attends to, and is decoded relative to it. Differs from that paper:
distance enters the attention as a Gaussian window in place of relative position features; tokens have a learned weight,
so that a plain background does not pull positions; the decoder is a low-rank product of rows and columns. Positions are
in units of the longer side of the picture, as (row, column).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.noise import Noise, standard_normal
from core.nn.positions import fourier_features
from core.types import Decomposition
from emorl.models.decoders import Decoding, compose
from emorl.models.slot_autoencoder import SlotAutoencoder

FIRST_WINDOW = 0.2  # standard deviation of the windows before training
MAX_LOG_WEIGHT = 3.0


class LocalSlotAttention(SlotAutoencoder):
    """Slot Attention autoencoder with slot positions (after Biza et al. 2023); squared-error loss.

    Start positions are uniform in the inner 0.7 of the picture. Slots are exchangeable. Codes are slots, each with its
    position behind it (N, K, D + 2); attention has half the picture's height and width.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        num_slots: int,
        slot_size: int = 64,
        num_iterations: int = 4,
        width: int = 32,
    ):
        super().__init__()
        self.num_slots = num_slots
        self.slot_size = slot_size
        self.num_iterations = num_iterations
        self.extent = [length / max(image_size) for length in image_size]
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(3, width, 5, stride=2, padding=2), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width, width, 5, padding=2), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width, width, 5, padding=2), nn.ReLU(inplace=True)),
        )
        self.tokens = nn.Sequential(
            *(nn.Linear(width, slot_size), nn.LayerNorm(slot_size)),
            *(nn.Linear(slot_size, 128), nn.ReLU(), nn.Linear(128, slot_size)),
        )
        self.token_weight = nn.Linear(slot_size, 1)
        self.initial_mean = nn.Parameter(torch.randn(slot_size) * slot_size**-0.5)
        self.initial_log_std = nn.Parameter(torch.full((slot_size,), -0.5))
        self.norm_slots = nn.LayerNorm(slot_size)
        self.to_query = nn.Linear(slot_size, slot_size, bias=False)
        self.to_key_value = nn.Linear(slot_size, 2 * slot_size, bias=False)
        self.gru = nn.GRUCell(slot_size, slot_size)
        self.mlp = nn.Sequential(
            *(nn.LayerNorm(slot_size), nn.Linear(slot_size, 2 * slot_size)),
            *(nn.ReLU(), nn.Linear(2 * slot_size, slot_size)),
        )
        # Logs of 1 / (2 std^2).
        self.attention_window = nn.Parameter(torch.tensor(-math.log(2 * FIRST_WINDOW**2)))
        self.mask_window = nn.Parameter(torch.tensor(-math.log(2 * FIRST_WINDOW**2)))
        self.decoder = LowRankDecoder(slot_size)
        scale = 1 / max(image_size)
        self.register_buffer("pixel_rows", (torch.arange(image_size[0]) + 0.5) * scale, persistent=False)
        self.register_buffer("pixel_columns", (torch.arange(image_size[1]) + 0.5) * scale, persistent=False)

    def decode_slots(self, codes: Float[Tensor, "S Z"]) -> Decoding:
        """RGB in [0, 1] and mask logits, which fall with the distance from the slot's position, of S codes."""
        slots, positions = codes.split((self.slot_size, 2), dim=-1)
        rows, columns = self.pixel_rows - positions[:, :1], self.pixel_columns - positions[:, 1:]
        pictures = self.decoder(slots, rows, columns).float()
        distance = rows.square()[:, :, None] + columns.square()[:, None, :]
        return Decoding(pictures[:, :3].sigmoid(), pictures[:, 3] - self.mask_window.exp() * distance)

    def _infer(self, image: Float[Tensor, "N 3 H W"], noise: Noise | None) -> tuple[list[Tensor], list[Tensor]]:
        """Codes and attention after every iteration."""
        features = self.convolutions(image.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        grid = features.shape[1:3]
        features = self.tokens(features.flatten(1, 2))
        with torch.autocast(image.device.type, enabled=False):
            codes, attentions = self.attend(features.float(), noise or standard_normal(image.device))
        return codes, [attention.detach().unflatten(-1, grid) for attention in attentions]

    def _draw(self, codes: Float[Tensor, "N K Z"], attention: Float[Tensor, "N K H2 W2"]) -> Decomposition:
        rgb, logits = (value.unflatten(0, codes.shape[:2]) for value in self.decode_slots(codes.flatten(0, 1)))
        masks = logits.softmax(dim=1)
        return Decomposition(
            recon=compose(masks, rgb),
            masks=masks,
            rgb=rgb,
            slots=codes,
            extras={"log_masks": logits.log_softmax(dim=1), "attention": attention},
        )

    def attend(
        self, features: Float[Tensor, "N P D"], noise: Noise
    ) -> tuple[list[Float[Tensor, "N K Z"]], list[Float[Tensor, "N K P"]]]:
        """Rounds of attention within each slot's window; every round moves the window to the mean of what it found.

        Slots with positions, and attention, after every round.
        """
        keys, values = self.to_key_value(features).chunk(2, dim=-1)
        weights = MAX_LOG_WEIGHT * (self.token_weight(features) / MAX_LOG_WEIGHT).tanh()
        weights = weights.exp().transpose(1, 2)
        # Tokens sit at every second pixel.
        places = torch.cartesian_prod(self.pixel_rows[::2], self.pixel_columns[::2])
        shape = (len(features), self.num_slots)
        slots = self.initial_mean + self.initial_log_std.exp() * noise("init", (*shape, self.slot_size))
        uniform = torch.special.ndtr(noise("positions", (*shape, 2)))
        positions = (0.15 + 0.7 * uniform) * uniform.new_tensor(self.extent)
        codes, attentions = [], []
        for _ in range(self.num_iterations):
            queries = self.to_query(self.norm_slots(slots)) * self.slot_size**-0.5
            distance = (places - positions[:, :, None]).square().sum(dim=-1)
            logits = torch.bmm(queries, keys.transpose(1, 2)) - self.attention_window.exp() * distance
            attention = logits.softmax(dim=1) + 1e-8
            share = attention * weights
            share = share / share.sum(dim=2, keepdim=True)
            positions = share @ places
            slots = self.gru((share @ values).flatten(0, 1), slots.flatten(0, 1)).unflatten(0, shape)
            slots = slots + self.mlp(slots)
            codes.append(torch.cat((slots, positions), dim=-1))
            attentions.append(attention)
        return codes, attentions


class LowRankDecoder(nn.Module):
    """Four channels (RGB, mask logits), each a sum of `rank` products of a function of the row and one of the column.

    Both functions are small networks of the slot and of Fourier features of the place relative to the slot.
    """

    def __init__(self, slot_size: int, width: int = 128, rank: int = 16, num_frequencies: int = 12):
        super().__init__()
        self.rank = rank
        self.num_frequencies = num_frequencies
        features = 1 + 2 * num_frequencies
        self.slot = nn.Linear(slot_size, 2 * width)
        self.row_place = nn.Linear(features, width, bias=False)
        self.column_place = nn.Linear(features, width, bias=False)
        self.row, self.column = (
            nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4 * rank)) for _ in range(2)
        )
        self.bias = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(
        self, slots: Float[Tensor, "S D"], rows: Float[Tensor, "S H"], columns: Float[Tensor, "S W"]
    ) -> Float[Tensor, "S 4 H W"]:
        of_row, of_column = self.slot(slots)[:, None].chunk(2, dim=-1)
        of_row = self.row(of_row + self.row_place(fourier_features(rows, self.num_frequencies)))
        of_column = self.column(of_column + self.column_place(fourier_features(columns, self.num_frequencies)))
        of_row, of_column = (value.unflatten(-1, (4, self.rank)).transpose(1, 2) for value in (of_row, of_column))
        return of_row @ of_column.transpose(2, 3) + self.bias
