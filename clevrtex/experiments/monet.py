#!/usr/bin/env python3
"""MONet on CLEVR, ClevrTex or any other set.

    python clevrtex/experiments/monet.py run --gc 200 --data 'clevr-crop-(128,128)' --tag baseline-repro \\
        --batch_size 21 --ddp --gpus '[0,1,2]'
"""

from dataclasses import dataclass
from typing import Any

from clevrtex.framework.options import Hyperparameters, option
from clevrtex.framework.program import main


@dataclass(kw_only=True)
class MONet(Hyperparameters):
    """MONet (Burgess et al. 2019)."""

    name = "monet"
    model = "monet:MONet"

    batch_size: int = option(64)
    optim: str = option("rmsprop")
    lr: str | None = option("")
    max_steps: int = option(1_000_000)
    z_dim: int = option(16, "length of a slot's vector", least=1)
    n_slots: int = option(11, "number of slots, the background's included", least=1)
    n_blocks: int = option(6, "depth of the attention's U-Net", least=1)
    bg_std: float = option(0.09, "standard deviation of a pixel of the first slot", above=0)
    fg_std: float = option(0.15, "standard deviation of a pixel of the other slots", above=0)

    def model_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        return {
            "image_size": image_size,
            "num_slots": self.n_slots,
            "slot_size": self.z_dim,
            "num_blocks": self.n_blocks,
            "background_std": self.bg_std,
            "foreground_std": self.fg_std,
        }


if __name__ == "__main__":
    main(MONet)
