#!/usr/bin/env python3
"""GNM on CLEVR, ClevrTex or any other set.

python clevrtex/experiments/gnm.py run --data 'clevrtex:full-crop-(128,128)' --std 0.5
"""

from dataclasses import dataclass
from typing import Any

from clevrtex.framework.options import Hyperparameters, option
from clevrtex.framework.program import main


@dataclass(kw_only=True)
class GNM(Hyperparameters):
    """GNM (Jiang and Ahn 2020). The number of slots is that of its cells, 16."""

    name = "gnm"
    model = "gnm:GNM"

    grad_clip: float | None = option(1.0)
    optim: str = option("rmsprop")
    max_steps: int = option(300_000)
    std: float = option(0.2, "standard deviation of a pixel; the published runs on ClevrTex have 0.5", above=0)
    z_what_dim: int = option(64, "size of an object's appearance", least=1)
    z_bg_dim: int = option(10, "size of the background's appearance", least=1)

    def model_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        return {
            "image_size": image_size,
            "std": self.std,
            "what_size": self.z_what_dim,
            "background_size": self.z_bg_dim,
        }


if __name__ == "__main__":
    main(GNM)
