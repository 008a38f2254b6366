"""Means over the samples of all processes of a training, of which each has as many as chance gives it."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def global_means(*losses: Float[Tensor, "_"]) -> list[Float[Tensor, ""]]:
    """The part of this process in the mean of each of `losses`, times the number of processes.

    What DDP averages over processes, values and gradients, is then the mean over the samples of all of them; it is 0,
    with gradients of 0, if none has any. All processes must call this together. Alone, it gives means.
    """
    counts = torch.tensor([float(len(values)) for values in losses], device=losses[0].device)
    num_processes = 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
        num_processes = dist.get_world_size()
    return [num_processes * values.sum() / count for values, count in zip(losses, counts.clamp(min=1))]
