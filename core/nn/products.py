"""Matrix products of linear layers on CPUs by oneDNN.

PyTorch's own float32 product on CPUs is MKL's, which does not use all of an AMD processor: there oneDNN's takes half
the time, whatever the number of rows, with equal numbers but for rounding.
"""

import torch
from jaxtyping import Float
from torch import Tensor

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def is_plain(tensor: Tensor) -> bool:
    """Whether `product` can be used: float32 on a CPU, without autocast."""
    is_float = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return HAS_ONEDNN and is_float and not torch.is_autocast_enabled("cpu")


def product(
    inputs: Float[Tensor, "R F"], weight: Float[Tensor, "G F"], bias: Float[Tensor, " G"] | None = None
) -> Float[Tensor, "R G"]:
    """`inputs @ weight.T + bias`, which autograd does not follow. Transposed tensors are read as they lie."""
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # of rows that lie apart, oneDNN makes a product 500 times as slow
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


def parameter_gradients(
    inputs: Float[Tensor, "R F"], gradient: Float[Tensor, "R G"]
) -> tuple[Float[Tensor, "G F"], Float[Tensor, " G"]]:
    """Of weight and bias of `product(inputs, weight, bias)`, given that of the result."""
    return product(gradient.t(), inputs.t()), gradient.sum(dim=0)
