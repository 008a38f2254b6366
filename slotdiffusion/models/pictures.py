"""Models of videos as models of pictures."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from core.nn.noise import Noise
from core.types import Decomposition

OF_PICTURES = ("token_id", "latents")
"""What a batch may say of every picture in advance."""


def as_videos(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """`image` (B, 3, H, W), and what is known of it in advance, as videos of one frame."""
    known = {name: batch[name][:, None] for name in OF_PICTURES if name in batch}
    return {"video": batch["image"][:, None], **known}


class OfPictures:
    """What a model of pictures inherits before the model of videos that it is for a single frame.

    `options` are those of the model of videos.
    """

    def __init__(
        self, num_slots: int = 11, num_iterations: int = 3, clip_len: int = 1, pred_type: str = "none", **options: Any
    ):
        settings = {"num_slots": num_slots, "num_iterations": num_iterations, "clip_len": clip_len}
        super().__init__(**settings, pred_type=pred_type, **options)

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """The terms of the model of videos for `batch["image"]` (B, 3, H, W) in [0, 1]."""
        return super().loss(as_videos(batch), step)

    def loss_and_masks(self, batch: dict[str, Tensor], step: int) -> tuple[dict[str, Tensor], Float[Tensor, "B N H W"]]:
        """What `loss` and `segment` give, from one look at the picture."""
        terms, masks = super().loss_and_masks(as_videos(batch), step)
        return terms, masks[:, 0]

    def decompose(self, batch: dict[str, Tensor], noise: Noise | None = None, **options: Any) -> Decomposition:
        """Slots of pictures, and pictures and masks of them; `options` are those of the model of videos."""
        found = super().decompose(as_videos(batch), noise, **options)
        return Decomposition(
            recon=found.recon[:, 0],
            masks=found.masks[:, 0],
            rgb=None if found.rgb is None else found.rgb[:, 0],
            slots=found.slots[:, 0],
        )

    def extract(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Float[Tensor, "B N D"]:
        """Slots of pictures, without decoding them."""
        return super().extract(as_videos(batch), noise)[:, 0]

    def segment(self, batch: dict[str, Tensor], noise: Noise | None = None) -> Float[Tensor, "B N H W"]:
        """The masks of `decompose` alone."""
        return super().segment(as_videos(batch), noise)[:, 0]
