"""Linear layers at the speed of convolutions on CPUs."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PICTURES = 16
"""PyTorch hands 1x1 convolutions of so many pictures to oneDNN, whatever the number of threads."""


def linear(
    inputs: Float[Tensor, "*batch F"], weight: Float[Tensor, "G F"], bias: Float[Tensor, " G"] | None = None
) -> Float[Tensor, "*batch G"]:
    """`inputs @ weight.T + bias`; many float32 rows on a CPU go through a 1x1 convolution.

    The product itself is MKL's in PyTorch, which does not use all of an AMD processor: there this takes half the time,
    forward and backward, with equal numbers but for rounding.
    """
    count = inputs.numel() // inputs.shape[-1]
    is_plain = inputs.device.type == "cpu" and inputs.dtype == weight.dtype == torch.float32
    if not is_plain or torch.is_autocast_enabled("cpu") or count < 4 * PICTURES or count % PICTURES:
        return F.linear(inputs, weight, bias)
    # Rows are channels-last memory of pictures one pixel wide.
    pictures = inputs.reshape(PICTURES, count // PICTURES, 1, -1).permute(0, 3, 1, 2)
    found = F.conv2d(pictures, weight[:, :, None, None], bias)
    return found.permute(0, 2, 3, 1).reshape(*inputs.shape[:-1], -1)


class Linear(nn.Linear):
    """nn.Linear by way of `linear`."""

    def forward(self, inputs: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch G"]:
        return linear(inputs, self.weight, self.bias)
