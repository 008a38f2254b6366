#!/usr/bin/env python3
"""IODINE on CLEVR, ClevrTex or any other set.

    python clevrtex/experiments/iodine.py run --batch_size 8 --gc 200 --ddp --data 'clevr-crop-(128,128)' \\
        --drop-last-batch --K 11 --seed random --gpus '[0,1,2,3]'
"""

from dataclasses import dataclass
from typing import Any

from clevrtex.framework.options import Hyperparameters, option
from clevrtex.framework.program import main


@dataclass(kw_only=True)
class Iodine(Hyperparameters):
    """IODINE (Greff et al. 2019)."""

    name = "iodine"
    model = "iodine:IODINE"

    grad_clip: float | None = option(5.0)
    lr: str | None = option("")
    max_steps: int = option(1_000_000)
    learning_rate: float = option(3e-4)
    z_size: int = option(128, "length of a slot's vector", least=1)
    K: int = option(11, "number of slots", least=2)
    inference_iters: int = option(5, "rounds of inference, the first one included", least=1)
    lstm_dim: int = option(256, "size of the refinement network's LSTM", least=1)
    conv_channels: int = option(64, "channels of decoder and refinement network", least=1)
    kl_beta: float = option(1.0, "weight of the KL term", least=0)
    geco_warm_start: int = option(1000, "for the original's commands; without effect there, too")
    std: float = option(0.1, "standard deviation of a pixel's colour", above=0)

    def model_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        return {
            "image_size": image_size,
            "num_slots": self.K,
            "num_iterations": self.inference_iters,
            "slot_size": self.z_size,
            "lstm_size": self.lstm_dim,
            "channels": self.conv_channels,
            "kl_weight": self.kl_beta,
            "std": self.std,
        }

    def checkpointing_arguments(self) -> dict[str, Any]:
        return {"checkpointing": True}


if __name__ == "__main__":
    main(Iodine)
