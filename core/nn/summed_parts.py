"""A loss that is a sum over the samples of a batch, taken part by part, so that one part's graph is kept at a time."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

LossOfPart = Callable[..., Float[Tensor, ""]]


def sum_over_parts(
    loss: LossOfPart,
    samples: Sequence[Tensor],
    shared: Sequence[Tensor],
    parameters: Iterable[Tensor],
    size: int,
) -> Float[Tensor, ""]:
    """The sum of `loss(*samples, *shared)`, called for `size` rows of every tensor of `samples` at a time.

    Where gradients are wanted each part's is taken at once, and its activations are free before the next part begins:
    the memory is that of one part and the time is that of the whole. `parameters` are what `loss` reads besides its
    arguments; those that need no gradient, or that it does not read, may be among them. Under float16 autocast all
    graphs are kept instead: its gradients need the scale of the whole loss, which is not known before the backward
    pass.
    """
    parameters = [value for value in parameters if value.requires_grad]
    wanted = any(value.requires_grad for value in (*samples, *shared, *parameters))
    if wanted and torch.is_grad_enabled() and not _needs_scale(samples[0].device.type):
        return _SumOverParts.apply(loss, size, len(samples), len(shared), *samples, *shared, *parameters)
    parts = zip(*(values.split(size) for values in samples))
    return torch.stack([loss(*part, *shared) for part in parts]).sum()


def _needs_scale(device: str) -> bool:
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16


class _SumOverParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss: LossOfPart, size: int, num_samples: int, num_shared: int, *tensors: Tensor
    ) -> Float[Tensor, ""]:
        leaves = [value.detach().requires_grad_(value.requires_grad) for value in tensors[: num_samples + num_shared]]
        shared, parameters = leaves[num_samples:], tensors[num_samples + num_shared :]
        common = [value for value in (*shared, *parameters) if value.requires_grad]
        total, of_parts, of_common = 0.0, [], None
        for part in zip(*(values.detach().split(size) for values in leaves[:num_samples])):
            part = [value.requires_grad_(leaf.requires_grad) for value, leaf in zip(part, leaves)]
            with torch.enable_grad():
                value = loss(*part, *shared)
            own = [value for value in part if value.requires_grad]
            with torch.autocast(value.device.type, enabled=False):
                gradients = torch.autograd.grad(value, [*own, *common], allow_unused=True)
            total = total + value.detach()
            of_parts.append(gradients[: len(own)])
            added = gradients[len(own) :]
            of_common = added if of_common is None else list(map(_added, of_common, added))
        ctx.save_for_backward(*(torch.cat(values) for values in zip(*of_parts)), *of_common)
        ctx.wanted = [value.requires_grad for value in (*leaves, *parameters)]
        return total

    @staticmethod
    def backward(ctx: Any, of_sum: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        gradients = iter(None if value is None else of_sum * value for value in ctx.saved_tensors)
        return (None,) * 4 + tuple(next(gradients) if wanted else None for wanted in ctx.wanted)


def _added(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    return part if total is None else total if part is None else total + part
