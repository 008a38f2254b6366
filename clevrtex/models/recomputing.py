"""Layers that keep about half of what others keep for the way back, at no measurable cost in time."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clevrtex.models.batch_norm import BatchNorm2d

NORMALISATIONS = (BatchNorm2d, nn.GroupNorm)


class Recomputing(nn.Sequential):
    """Layers one after the other; outputs and gradients are those of nn.Sequential.

    A normalisation and the activation after it are cheap, but the convolution that follows keeps their result. Here it
    is made again on the way back from the input of the normalisation, which is kept anyway.
    """

    def forward(self, maps: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(maps)
        for part in parts(self):
            if len(part) == 1:
                maps = part[0](maps)
            else:
                contexts = partial(_contexts, part)
                maps = checkpoint(part, maps, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        return maps


def parts(layers: Iterable[nn.Module]) -> list[nn.Sequential]:
    """Each normalisation with what follows it up to a convolution, all other layers alone."""
    groups: list[list[nn.Module]] = []
    for layer in layers:
        open_part = groups and isinstance(groups[-1][0], NORMALISATIONS) and not isinstance(groups[-1][-1], nn.Conv2d)
        if open_part:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return [nn.Sequential(*group) for group in groups]


def _contexts(layers: nn.Sequential) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Of the way there, and of the second time on the way back, which batch normalisation must not count."""
    return nullcontext(), _statistics_kept(layers)


@contextmanager
def _statistics_kept(layers: nn.Sequential) -> Iterator[None]:
    norms = [layer for layer in layers if isinstance(layer, BatchNorm2d)]
    for norm in norms:
        norm.counts = False
    try:
        yield
    finally:
        for norm in norms:
            norm.counts = True
