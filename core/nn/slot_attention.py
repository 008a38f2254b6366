"""Slot attention as the video models use it, and the attention step that all its descendants share."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def compete(
    queries: Float[Tensor, "B K D"],
    keys: Float[Tensor, "B N D"],
    values: Float[Tensor, "B N D_v"],
    epsilon: float = 1e-8,
) -> tuple[Float[Tensor, "B K D_v"], Float[Tensor, "B K N"]]:
    """Slots compete for inputs: softmax over slots, weighted mean over inputs (Locatello et al. 2020, algorithm 1).

    `queries` come scaled. Returns the updates and the attention after the softmax, which sums to 1 + K epsilon over K.
    The softmax and the mean are float32 under autocast: 1e-8 is zero in half precision.
    """
    logits = torch.bmm(queries, keys.transpose(1, 2))
    attention = logits.float().softmax(dim=1) + epsilon
    weights = attention / attention.sum(dim=2, keepdim=True)
    return torch.bmm(weights.to(values.dtype), values), attention


class _CompeteForInputs(torch.autograd.Function):
    """`compete` where keys and values are the same inputs: one product gives both parts of their gradient."""

    @staticmethod
    def forward(
        ctx: Any, queries: Float[Tensor, "B K F"], inputs: Float[Tensor, "B N F"], epsilon: float
    ) -> tuple[Float[Tensor, "B K F"], Float[Tensor, "B K N"]]:
        """The mean inputs, and the attention before epsilon."""
        attention = torch.bmm(queries, inputs.transpose(1, 2)).softmax(dim=1)
        weights = attention + epsilon
        totals = weights.sum(dim=2, keepdim=True)
        weights /= totals
        means = torch.bmm(weights, inputs)
        ctx.save_for_backward(queries, inputs, attention, weights, totals, means)
        ctx.mark_non_differentiable(attention)
        return means, attention

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_means: Float[Tensor, "B K F"], _: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, inputs, attention, weights, totals, means = ctx.saved_tensors
        of_attention = torch.bmm(of_means, inputs.transpose(1, 2))
        of_attention -= (of_means * means).sum(dim=2, keepdim=True)
        of_attention /= totals
        of_logits = attention * (of_attention - (attention * of_attention).sum(dim=1, keepdim=True))
        left, right = torch.cat((of_logits, weights), dim=1), torch.cat((queries, of_means), dim=1)
        return torch.bmm(of_logits, inputs), torch.bmm(left.transpose(1, 2), right), None


class SlotAttention(nn.Module):
    """Slots compete for inputs and a GRU updates them (Locatello et al. 2020, algorithm 1); no noise inside.

    With equal numbers, keys and values are never made: queries are taken to the space of the inputs instead, and the
    mean of the inputs to that of the slots, which costs a product per slot and not two per input.
    """

    def __init__(
        self, in_features: int, slot_size: int, mlp_hidden_size: int, num_iterations: int, epsilon: float = 1e-6
    ):
        super().__init__()
        self.num_iterations = num_iterations
        self.epsilon = epsilon
        self.norm_inputs = nn.LayerNorm(in_features)
        self.project_q = nn.Sequential(nn.LayerNorm(slot_size), nn.Linear(slot_size, slot_size, bias=False))
        self.project_k = nn.Linear(in_features, slot_size, bias=False)
        self.project_v = nn.Linear(in_features, slot_size, bias=False)
        self.gru = nn.GRUCell(slot_size, slot_size)
        self.mlp = nn.Sequential(
            nn.LayerNorm(slot_size),
            nn.Linear(slot_size, mlp_hidden_size),
            nn.ReLU(),
            nn.Linear(mlp_hidden_size, slot_size),
        )

    def forward(
        self, inputs: Float[Tensor, "B N F"], slots: Float[Tensor, "B K D"]
    ) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B K N"]]:
        """Refine `slots` for `num_iterations` rounds; also returns the last attention, which sums to one over K."""
        return self.refine(self.project(inputs), slots)

    def project(self, inputs: Float[Tensor, "*B N F"]) -> Float[Tensor, "*B N F"]:
        """What `refine` reads of the inputs: a video's frames may go through in one call."""
        return self.norm_inputs(inputs)

    def refine(
        self, projected: Float[Tensor, "B N F"], slots: Float[Tensor, "B K D"]
    ) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B K N"]]:
        """As `forward`, from what `project` made of the inputs. The returned attention carries no gradient."""
        with torch.autocast(slots.device.type, enabled=False):
            projected, slots = projected.float(), slots.float()
            for _ in range(self.num_iterations):
                queries = (self.project_q(slots) * slots.shape[-1] ** -0.5) @ self.project_k.weight
                means, attention = _CompeteForInputs.apply(queries, projected, self.epsilon)
                updates = self.project_v(means)
                slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
                slots = slots + self.mlp(slots)
        return slots, attention
