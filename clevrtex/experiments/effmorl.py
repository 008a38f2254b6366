#!/usr/bin/env python3
"""EfficientMORL on CLEVR, ClevrTex or any other set.

    python clevrtex/experiments/effmorl.py run --batch_size 8 --data 'clevr-crop-(128,128)' --drop-last-batch --ddp \\
        --gpus '[0,1,2,3]'
"""

from dataclasses import dataclass
from typing import Any

from clevrtex.framework.commandline import UsageError
from clevrtex.framework.options import Hyperparameters, option
from clevrtex.framework.program import main


@dataclass(kw_only=True)
class EffMORL(Hyperparameters):
    """EfficientMORL (Emami et al. 2021)."""

    name = "effmorl"
    model = "effmorl:EffMORL"

    seed: int | str | None = option(1200)
    grad_clip: float | None = option(5.0)
    lr: str | None = option("decay(10000,100000,0.5)")
    learning_rate: float = option(4e-4)
    use_geco: bool = option(True, "move the weight of the reconstruction towards its target")
    num_slots: int = option(11, "number of slots", least=1)
    z_dim: int = option(64, "length of a slot's vector", least=1)
    refinement_curriculum: list = option([(-1, 3), (100_000, 1), (200_000, 1)], "(from step, refinements) pairs")
    geco_ema_alpha: float = option(0.99, "memory of GECO's average")
    geco_beta_stepsize: float = option(1e-6, "step of GECO's weight")
    kl_beta_init: float = option(1.0, "weight of the KL term", least=0)
    geco_reconstruction_target: float | None = option(
        None, "GECO's target in nats per picture; None: the published -108000 of 128x128, in proportion to the size"
    )
    std: float = option(0.1, "standard deviation of a pixel's colour", above=0)

    def __post_init__(self) -> None:
        for pair in self.refinement_curriculum:
            is_pair = isinstance(pair, list | tuple) and len(pair) == 2 and all(type(value) is int for value in pair)
            if not is_pair or pair[1] < 0:
                raise UsageError(
                    f"--refinement_curriculum {self.refinement_curriculum}: expected pairs of a step and a number of "
                    "refinements from it on, as in [(-1,3),(100000,1)]"
                )

    def model_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """In the names of the model."""
        return {
            "image_size": image_size,
            "num_slots": self.num_slots,
            "slot_size": self.z_dim,
            "std": self.std,
            "kl_weight": self.kl_beta_init,
            "refinement_curriculum": [list(pair) for pair in self.refinement_curriculum],
            "use_geco": self.use_geco,
            "geco_target": self.geco_reconstruction_target,
            "geco_alpha": self.geco_ema_alpha,
            "geco_step_size": self.geco_beta_stepsize,
        }

    def checkpointing_arguments(self) -> dict[str, Any]:
        return {"images_per_chunk": 1}


if __name__ == "__main__":
    main(EffMORL)
