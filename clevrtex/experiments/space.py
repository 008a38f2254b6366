#!/usr/bin/env python3
"""SPACE on CLEVR, ClevrTex or any other set.

python clevrtex/experiments/space.py run --data 'clevrtex:full-crop-(128,128)'
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from clevrtex.framework.options import Hyperparameters, option
from clevrtex.framework.program import main

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(kw_only=True)
class SPACE(Hyperparameters):
    """SPACE (Lin et al. 2020). The number of slots is that of its cells, 64 at 128x128."""

    name = "space"
    model = "space:SPACE"

    batch_size: int = option(16)
    grad_clip: float | None = option(1.0)
    max_steps: int = option(160_000)
    fg_std: float = option(0.15, "standard deviation of a pixel of an object", above=0)
    bg_std: float = option(0.15, "standard deviation of a pixel of the background", above=0)
    grid: int | None = option(
        None, "cells along a side, each of 8, 16 or 32 pixels; None: 8, fewer in small pictures", least=1
    )
    bg_components: int = option(5, "components of the background; 1 has a decoder of a whole picture", least=1)
    scale_start: float = option(-1.0, "mean of the sides of windows before the sigmoid, up to step 10,000; 0 for half")
    scale_end: float = option(-2.0, "that mean from step 20,000 on")
    fixed_alpha_steps: int = option(
        0, "steps in which the likelihood takes objects to have 0.1 of every pixel", least=0
    )
    learning_rate: float = option(1e-5, "of the foreground, by RMSprop")
    background_learning_rate: float = option(1e-3, "of the background, by Adam", above=0)
    # No flags: the two optimisers are part of the model's definition.
    optim: ClassVar[str] = "rmsprop and adam"
    lr: ClassVar[None] = None

    def model_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        return {
            "image_size": image_size,
            "foreground_std": self.fg_std,
            "background_std": self.bg_std,
            "grid": self.grid,
            "num_components": self.bg_components,
            "schedules": {
                "scale_prior": (10_000, 20_000, self.scale_start, self.scale_end),
                "fixed_alpha_end": self.fixed_alpha_steps,
            },
        }

    def build_optimizer(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """RMSprop for the foreground, Adam for the background, both from the same gradients.

        The original computes all gradients again after RMSprop's step, which doubles the cost: with a closure, the
        optimiser's `step` does the same.
        """
        import torch

        from clevrtex.framework.joint_optimizer import JointOptimizer

        foreground = torch.optim.RMSprop(model.foreground.parameters(), self.learning_rate)
        background = torch.optim.Adam(model.background.parameters(), self.background_learning_rate, fused=True)
        return JointOptimizer([foreground, background])

    def range_tested(self) -> str:
        raise ValueError("--tune: SPACE is always trained with two optimisers of fixed learning rates; leave it out")


if __name__ == "__main__":
    main(SPACE)
