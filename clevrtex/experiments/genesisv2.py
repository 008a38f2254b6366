#!/usr/bin/env python3
"""GENESIS-V2 on CLEVR, ClevrTex or any other set.

    python clevrtex/experiments/genesisv2.py run --data 'clevrtex:full-crop-(128,128)' --tag genesisv2 --g_goal 0.5 \\
        --seed random
"""

from dataclasses import dataclass
from typing import Any

from clevrtex.framework.options import Hyperparameters, option
from clevrtex.framework.program import main


@dataclass(kw_only=True)
class GenesisV2(Hyperparameters):
    """GENESIS-V2 (Engelcke et al. 2021)."""

    name = "g2"
    model = "genesisv2:GenesisV2"

    g_goal: float = option(0.5655, "GECO's goal: reconstruction error in nats per pixel and channel")
    pixel_std: float = option(0.7, "standard deviation of a pixel's colour", above=0)
    slots: int = option(11, "number of slots; the original has 11, always", least=2)

    def model_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        return {
            "image_size": image_size,
            "num_slots": self.slots,
            "goal": self.g_goal,
            "pixel_std": self.pixel_std,
        }


if __name__ == "__main__":
    main(GenesisV2)
