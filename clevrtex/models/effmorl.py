"""EfficientMORL (Emami et al. 2021) as the ClevrTex benchmark trains it."""

import math
from collections.abc import Sequence

from torch import Tensor

from emorl.models.efficient_morl import EfficientMORL
from emorl.models.hvae import PriorName
from emorl.models.likelihood import LikelihoodName

TARGET_PER_VALUE = -108_000 / (3 * 128 * 128)
"""GECO's published target in nats per pixel and channel."""


class EffMORL(EfficientMORL):
    """EfficientMORL with the benchmark's settings for images (h, w), and `rec_loss` as the name of the nll.

    `std` is the standard deviation of a pixel. `geco_target` is the wanted `rec_loss` of an image; by default the
    published -108000 of 128x128, in proportion to the size: -108000 itself cannot be reached by smaller images. Without
    `use_geco` the nll keeps the weight softplus(0.55) = 1.006 that it gets at step `geco_warm_start`, as in the
    original.

    A training run must call `after_step`. A model from a checkpoint evaluates with `refinement_iters` refinements,
    during training with as many as training makes.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (128, 128),
        num_slots: int = 11,
        slot_size: int = 64,
        std: float = 0.1,
        kl_weight: float = 1.0,
        refinement_curriculum: Sequence[Sequence[int]] = ((-1, 3), (100_000, 1), (200_000, 1)),
        refinement_iters: int = 3,
        use_geco: bool = True,
        geco_target: float | None = None,
        geco_alpha: float = 0.99,
        geco_step_size: float = 1e-6,
        geco_warm_start: int = 1000,
        num_layers: int = 3,
        likelihood: LikelihoodName = "Gaussian",
        prior: PriorName = "reversed++",
        hidden: int = 64,
        images_per_chunk: int | None = None,
    ):
        values = 3 * image_size[0] * image_size[1]
        super().__init__(
            image_size,
            num_slots,
            slot_size,
            num_layers=num_layers,
            refinement_iters=refinement_iters,
            log_std=math.log(std),
            likelihood=likelihood,
            prior=prior,
            kl_weight=kl_weight,
            refinement_curriculum=[(start, count) for start, count in refinement_curriculum],
            geco={
                "target": TARGET_PER_VALUE * values if geco_target is None else geco_target,
                "alpha": geco_alpha,
                "step_size": geco_step_size,
                "acceleration": 1.0,
                "warm_start": geco_warm_start,
            },
            hidden=hidden,
            images_per_chunk=images_per_chunk,
        )
        self.use_geco = use_geco

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Training loss of `batch["image"]` (N, 3, H, W in [0, 1]), `rec_loss` and `kl` in nats per image."""
        terms = super().loss(batch, step)
        return {"rec_loss" if name == "nll" else name: value for name, value in terms.items()}

    def after_step(self, step: int, terms: dict[str, Tensor]) -> None:
        """Move GECO by the `rec_loss` of a step; one of the trainer's `controllers`.

        The original does so before the step's backward pass, which gives the same numbers: the loss holds the values
        that GECO had in the forward pass, detached.
        """
        if self.use_geco:
            self.geco.update(terms["rec_loss"], step)
        self.refinement_iters = self.num_refinements(step)
