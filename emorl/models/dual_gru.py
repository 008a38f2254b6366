"""The DualGRU of EfficientMORL: the mean and the scale of a posterior are updated by two independent GRUs at once."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DualGRUCell(nn.Module):
    """Two independent GRU cells evaluated by batched products (Emami et al. 2021, section 3.1).

    Axis 0 of every parameter is the cell; rows are ordered reset, update, candidate, as in `torch.nn.GRUCell`.
    All parameters start from N(0, 1), as in the original.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.weight_ih = nn.Parameter(torch.randn(2, 3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.randn(2, 3 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.randn(2, 3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.randn(2, 3 * hidden_size))

    def init_uniform(self) -> None:
        """The start of `torch.nn.GRUCell`: uniform within 1 / sqrt(hidden size), so that no gate is saturated."""
        bound = (self.weight_hh.shape[1] // 3) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, inputs: Float[Tensor, "2 B D_in"], state: Float[Tensor, "2 B D"]) -> Float[Tensor, "2 B D"]:
        from_input = torch.baddbmm(self.bias_ih[:, None], inputs, self.weight_ih.transpose(1, 2)).float()
        from_state = torch.baddbmm(self.bias_hh[:, None], state, self.weight_hh.transpose(1, 2)).float()
        reset_in, update_in, candidate_in = from_input.chunk(3, dim=-1)
        reset_state, update_state, candidate_state = from_state.chunk(3, dim=-1)
        reset = torch.sigmoid(reset_in + reset_state)
        update = torch.sigmoid(update_in + update_state)
        candidate = torch.tanh(candidate_in + reset * candidate_state)
        return candidate + update * (state - candidate)
