#!/usr/bin/env python3
"""MarioNette on CLEVR, ClevrTex or any other set, with the framework's flags, folders and checkpoints.

    python clevrtex/experiments/marionette.py run --data 'clevrtex:full-crop-(128,128)' --seed random

Its own workflow is `python -m clevrtex.marionet.train`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clevrtex.framework.commandline import UsageError
from clevrtex.framework.options import Hyperparameters, option
from clevrtex.framework.program import main

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(kw_only=True)
class MarioNette(Hyperparameters):
    """MarioNette (Smirnov et al. 2021)."""

    name = "marionette"
    model = "marionette:MarioNette"

    seed: int | str | None = option(2)
    batch_size: int = option(8)
    optim: str = option("adamw", "adamw with weight decay 0.01; no other")
    max_steps: int = option(200_000)
    learning_rate_bg: float = option(1e-3, "learning rate of the dictionary of backgrounds", above=0)
    layer_size: int = option(8, "cells of a layer along each axis", least=1)
    num_layers: int = option(2, "layers; the number of slots is layer_size squared for each", least=1)
    num_classes: int = option(150, "sprites in the dictionary", least=1)
    dim_z: int = option(128, "length of a code of patches, a multiple of 8 and at least 16")
    dim_bg: int = option(16, "length of a code of backgrounds, a multiple of 8 and at least 16")
    background: int = option(1, "learned backgrounds; 0: background_color everywhere", least=0)
    background_color: list[float] = option([0.0, 0.0, 0.0], "constant background in [0, 1], if there is no learned one")
    w_beta: float = option(0.002, "weight of the penalty on undecided choices")
    w_probs: list[float] | float = option([5e-3], "weight of the penalty on presence; one, or one per layer")
    straight_through_probs: bool = option(False, "round presence in training, with the gradient of the identity")
    no_spatial_transformer: bool = option(False, "shift patches by whole pixels")

    def __post_init__(self) -> None:
        if len(self.background_color) != 3:
            raise UsageError(f"--background_color {self.background_color}: expected red, green and blue from 0 to 1")

    def model_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """In the names of the model."""
        return {
            "image_size": image_size,
            "layer_size": self.layer_size,
            "num_layers": self.num_layers,
            "num_classes": self.num_classes,
            "dim_z": self.dim_z,
            "dim_bg": self.dim_bg,
            "num_backgrounds": self.background,
            "background_colour": list(self.background_color),
            "beta_weight": self.w_beta,
            "presence_weights": self.w_probs if isinstance(self.w_probs, list) else [self.w_probs],
            "straight_through_presence": self.straight_through_probs,
            "spatial_transformer": not self.no_spatial_transformer,
        }

    def build_optimizer(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """AdamW over two groups, the second one of the backgrounds. Raises ValueError for another `optim`."""
        import torch

        if self.optim != "adamw":
            raise ValueError(f"--optim {self.optim!r}: MarioNette is trained with adamw; leave the flag out")
        groups: list[dict[str, Any]] = [{"params": [], "lr": self.learning_rate}]
        if self.background:
            groups.append({"params": [], "lr": self.learning_rate_bg})
        for name, value in model.named_parameters():
            groups[name.startswith("background.")]["params"].append(value)
        return torch.optim.AdamW(groups, weight_decay=0.01, fused=True)

    def range_tested(self) -> str:
        raise ValueError(
            "--tune: looks for one learning rate of --optim, and MarioNette has two of its own AdamW. Leave it out, "
            "and compare short runs with other --learning_rate and --learning_rate_bg"
        )


if __name__ == "__main__":
    main(MarioNette)
