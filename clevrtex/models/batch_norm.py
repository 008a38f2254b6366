"""Batch normalisation, and means, over the images of all processes of a training."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total / num_processes()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _Mean.apply(gradient)


def mean_over_processes(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean of what all processes of a training hold.

    Gradients are those of the sum of all processes' losses: they flow back to each of them.
    """
    return _Mean.apply(values) if num_processes() > 1 else values


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the images of all processes, so that a training does not depend on their number.

    torch has the same for GPUs alone: nn.SyncBatchNorm, which this class may be converted to. What is normalised while
    `counts` is False leaves no trace in the running statistics.
    """

    counts = True

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalise by all images of the step; in evaluation, or in one process, as torch does."""
        count = num_processes()
        if count == 1 and self.training and not self.counts:
            running = self.running_mean, self.running_var
            return F.batch_norm(maps, *running, self.weight, self.bias, training=True, momentum=0.0, eps=self.eps)
        if count == 1 or not self.training:
            return super().forward(maps)
        values = maps.float()
        mean = mean_over_processes(values.mean(dim=(0, 2, 3)))
        centred = values - mean[:, None, None]
        variance = mean_over_processes(centred.square().mean(dim=(0, 2, 3)))
        if self.counts:
            with torch.no_grad():
                size = count * maps.numel() / maps.shape[1]
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * size / (size - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(maps.dtype)
