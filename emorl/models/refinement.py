"""The second stage of EfficientMORL: iterative refinement of the last posterior from its own loss gradient."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class RefinementNetwork(nn.Module):
    """Proposes an update of lambda = (mean | scale) from lambda and its gradient (Emami et al. 2021, section 3.2).

    Only slots-sized vectors go in, no image-sized ones. No gradient flows through the gradient input.
    """

    def __init__(self, slot_size: int, hidden_size: int = 128):
        super().__init__()
        self.slot_size = slot_size
        self.encoding = nn.Sequential(
            nn.Linear(4 * slot_size, hidden_size), nn.ELU(), nn.Linear(hidden_size, slot_size)
        )
        self.recurrence = nn.GRUCell(slot_size, slot_size)
        self.mean = nn.Linear(slot_size, slot_size)
        self.scale = nn.Linear(slot_size, slot_size)

    def forward(
        self,
        gradient: Float[Tensor, "N K D2"],
        parameters: Float[Tensor, "N K D2"],
        state: Float[Tensor, "S D"] | None,
    ) -> tuple[Float[Tensor, "N K D2"], Float[Tensor, "S D"]]:
        """The update and the recurrent state of the S = N K slots; `state` is None before the first step."""
        of_mean, of_scale = (F.layer_norm(half, half.shape[-1:]) for half in gradient.detach().chunk(2, dim=-1))
        hidden = self.encoding(torch.cat((parameters, of_mean, of_scale), dim=-1)).flatten(0, 1)
        state = self.recurrence(hidden, state).float()
        update = torch.cat((self.mean(state), self.scale(state)), dim=-1).float()
        return update.view(parameters.shape), state
