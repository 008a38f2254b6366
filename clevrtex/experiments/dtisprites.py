#!/usr/bin/env python3
"""DTI-Sprites on CLEVR, ClevrTex or any other set.

python clevrtex/experiments/dtisprites.py run --slots 10 --data 'clevrtex:full-crop-(128,128)'
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clevrtex.framework.options import Hyperparameters, option
from clevrtex.framework.program import main

if TYPE_CHECKING:
    import torch
    from torch import nn

    from core.training.schedules import Schedule

WARM_UP = 1000
RATE_MILESTONES = (250, 400)
"""Epochs from which the networks learn ten times slower."""


@dataclass(kw_only=True)
class DTISprites(Hyperparameters):
    """DTI-Sprites (Monnier et al. 2021)."""

    name = "dtis"
    model = "dtisprites:DTISprites"

    epochs: int | None = option(450)
    lr: str | None = option(None, "None: 1000 steps of warm-up, networks ten times slower from epochs 250 and 400 on")
    slots: int = option(10, "number of slots, and of sprites", least=1)
    n_bg: int = option(1, "number of backgrounds", least=1)
    complex: bool = option(False, "sprites change colour too, and the background its shape")
    sprites: int | None = option(None, "number of sprites where it is not that of slots", least=1)
    sprite_size: int = option(40, "side of a sprite in pixels; it fills half a picture before it is scaled", least=1)
    encoder: str = option("resnet18", "resnet18, 34, 50, 101 or 152, vgg16 or small")
    freeze: int = option(40, "epochs in which sprites stay as they are", least=0)
    curriculum: int = option(150, "epoch from which shapes are transformed", least=0)
    legacy_encoder_steps: bool = option(False, "update the encoder slots + 2 times per step, as the original did")

    def model_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """In the names of the model."""
        chain = "color_projective"
        return {
            "image_size": image_size,
            "num_slots": self.slots,
            "num_sprites": self.sprites or self.slots,
            "num_backgrounds": self.n_bg,
            "sprite_size": (self.sprite_size, self.sprite_size),
            "mask_std": self.sprite_size / 4,
            "encoder": self.encoder,
            "sprite_transformations": chain if self.complex else "identity_projective",
            "sprite_milestones": [self.curriculum],
            "background_transformations": chain if self.complex else "color",
            "background_milestones": [self.curriculum] if self.complex else [],
            "freeze_epochs": self.freeze,
        }

    def rate_schedule(self, steps_per_epoch: int) -> "Schedule":
        """Of what is drawn; networks also follow the epochs, see `build_optimizer`."""
        from clevrtex.framework.optim import parse_rate

        return parse_rate(f"warm({WARM_UP})") if self.lr is None else super().rate_schedule(steps_per_epoch)

    def build_optimizer(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """Groups for what is drawn and for the networks, whose rate falls at milestones unless --lr says otherwise."""
        optimizer = self._legacy_adam(model) if self.legacy_encoder_steps else super().build_optimizer(model)
        if self.lr is None:
            optimizer.register_step_pre_hook(lambda optimizer, *_: slow_networks(optimizer, model.epoch))
        return optimizer

    def _legacy_adam(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """The original lists the encoder once more for every slot, and for the layers and the background together."""
        import torch

        if self.optim != "adam":
            raise ValueError(f"--legacy_encoder_steps is for --optim adam, found {self.optim}")
        drawn, networks = model.param_groups()
        networks["params"] += (self.slots + 1) * list(model.encoder.parameters())
        groups = [{"params": group["params"], **group.get("other", {})} for group in (drawn, networks)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "optimizer contains a parameter group with duplicate parameters")
            return torch.optim.Adam(groups, lr=self.learning_rate, foreach=False)


def slow_networks(optimizer: "torch.optim.Optimizer", epoch: int) -> None:
    """Divide the rate of the second group, which the schedule has just set, by ten for every milestone passed."""
    optimizer.param_groups[1]["lr"] *= 0.1 ** sum(epoch >= milestone for milestone in RATE_MILESTONES)


if __name__ == "__main__":
    main(DTISprites)
