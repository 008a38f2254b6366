"""Activations that are made again in the backward pass instead of kept."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result", bound=Tensor)


def again(part: Callable[..., Result], *inputs: object, when: bool) -> Result:
    """`part(*inputs)`; `when` it is set, none of its activations is kept. Nothing random may happen in it."""
    if not when:
        return part(*inputs)
    return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
