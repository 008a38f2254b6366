#!/usr/bin/env python3
"""Slot Attention on CLEVR, ClevrTex or any other set.

python clevrtex/experiments/slota.py run --data 'clevr-crop-(128,128)' --tag slot-attention
"""

from dataclasses import dataclass
from typing import Any

from clevrtex.framework.options import Hyperparameters, option
from clevrtex.framework.program import main


@dataclass(kw_only=True)
class SlotAttention(Hyperparameters):
    """Slot Attention (Locatello et al. 2020)."""

    name = "slota"
    model = "slot_attention:SlotAttention"

    batch_size: int = option(64)
    lr: str | None = option("decay(10000,100000,0.5)")
    learning_rate: float = option(4e-4)
    slots: int = option(11, "number of slots", least=1)
    num_iter: int = option(3, "rounds of attention", least=1)
    width: int = option(64, "channels, and length of a slot's vector", least=1)
    decoder_grid: int = option(
        8, "side of the decoder's first map; it makes pictures of 16 times that, resized to fit", least=1
    )

    def model_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        return {
            "image_size": image_size,
            "num_slots": self.slots,
            "num_iterations": self.num_iter,
            "hidden": self.width,
            "mlp_hidden": 2 * self.width,
            "decoder_initial_size": (self.decoder_grid, self.decoder_grid),
        }


if __name__ == "__main__":
    main(SlotAttention)
