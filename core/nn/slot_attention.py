"""The attention step that slot attention and its descendants share."""

import torch
from jaxtyping import Float
from torch import Tensor


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
