"""The linear layers of SRT and OSRT: they differ in how they begin."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core.nn.products import is_plain, product


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.has_bias = bias is not None
        return product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rows, weight), wanted = ctx.saved_tensors, ctx.needs_input_grad
        return (
            product(gradient, weight.t()) if wanted[0] else None,
            product(gradient.t(), rows.t()) if wanted[1] else None,
            gradient.sum(dim=0) if ctx.has_bias and wanted[2] else None,
        )


def linear(
    inputs: Float[Tensor, "*batch F"], weight: Float[Tensor, "G F"], bias: Float[Tensor, " G"] | None = None
) -> Float[Tensor, "*batch G"]:
    """`inputs @ weight.T + bias`, in float32 on CPUs by oneDNN for any number of rows (core/nn/products.py)."""
    if not (is_plain(inputs) and is_plain(weight)):
        return F.linear(inputs, weight, bias)
    found = _Product.apply(inputs.reshape(-1, inputs.shape[-1]), weight, bias)
    return found.view(*inputs.shape[:-1], -1)


class Linear(nn.Linear):
    """nn.Linear by way of `linear`."""

    def forward(self, inputs: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch G"]:
        return linear(inputs, self.weight, self.bias)


class AttentionLinear(Linear):
    """Begins as layers of JAX do: a normal of variance 1 / fan-in, cut at two standard deviations; biases zero."""

    def reset_parameters(self) -> None:
        deviation = math.sqrt(1 / self.in_features)
        nn.init.trunc_normal_(self.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class FeedForwardLinear(Linear):
    """Begins as in the MLPs of vision transformers: Xavier's uniform, biases N(0, 1e-6)."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.normal_(self.bias, std=1e-6)


class DecoderLinear(Linear):
    """Begins with Xavier's uniform, biases zero."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def use_default_init(model: nn.Module) -> None:
    """Let every linear layer of `model` begin as PyTorch's do."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.Linear.reset_parameters(module)
