"""Slot attention with learned initial slots (Sajjadi et al. 2022, Object Scene Representation Transformer)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.slot_attention import compete
from osrt.models.linear import AttentionLinear


class SlotAttention(nn.Module):
    """Slots compete for inputs and a GRU updates them (Locatello et al. 2020, algorithm 1), in float32 throughout.

    All scenes begin with the same learned slots; nothing is random. Keys and values are never made: queries go to the
    space of the inputs instead, and the mean inputs to that of the slots, with equal numbers.
    """

    def __init__(
        self, num_slots: int, input_dim: int = 768, slot_dim: int = 1536, hidden_dim: int = 3072, iters: int = 1
    ):
        super().__init__()
        self.iters = iters
        self.initial_slots = nn.Parameter(torch.randn(num_slots, slot_dim))
        self.to_q = AttentionLinear(slot_dim, slot_dim, bias=False)
        self.to_k = AttentionLinear(input_dim, slot_dim, bias=False)
        self.to_v = AttentionLinear(input_dim, slot_dim, bias=False)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        self.mlp = nn.Sequential(
            AttentionLinear(slot_dim, hidden_dim), nn.ReLU(), AttentionLinear(hidden_dim, slot_dim)
        )
        self.norm_input = nn.LayerNorm(input_dim)
        self.norm_slots = nn.LayerNorm(slot_dim)
        self.norm_pre_mlp = nn.LayerNorm(slot_dim)

    def forward(self, inputs: Float[Tensor, "B N F"]) -> Float[Tensor, "B K D"]:
        with torch.autocast(inputs.device.type, enabled=False):
            inputs = self.norm_input(inputs.float())
            slots = self.initial_slots.expand(len(inputs), -1, -1)
            for _ in range(self.iters):
                queries = (self.to_q(self.norm_slots(slots)) * slots.shape[-1] ** -0.5) @ self.to_k.weight
                means, _ = compete(queries, inputs, inputs)
                updates = self.to_v(means)
                slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(updates)
                slots = slots + self.mlp(self.norm_pre_mlp(slots))
        return slots
