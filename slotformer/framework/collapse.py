"""Signs that a slot model has collapsed: one slot takes all, slots share every pixel, or slots are mere places."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from core.metrics.segmentation import foreground_ari, foreground_ari_of_blocks, hard_labels

LEAST_SHARE = 0.01
"""Of the pixels, that a slot must win to count as used."""
WARNINGS = (
    ("slots_used", lambda value: value < 1.5, "one slot takes nearly every pixel"),
    ("mask_entropy", lambda value: value > 0.9, "slots share every pixel evenly"),
    ("mask_repetition", lambda value: value > 0.95, "slots stand for places: their masks are alike in all videos"),
)


def usage(masks: Float[Tensor, "B T K H W"]) -> dict[str, Tensor]:
    """Means over frames, from masks that sum to one over K.

    `slots_used`: slots that win at least 1 % of the pixels. `mask_entropy`: of the slots at a pixel, 0 for hard masks,
    1 for even ones. `mask_repetition`: correlation of the first frame's masks with those of the next video of the
    batch, slot by slot; only with several videos.
    """
    slots = masks.shape[2]
    winners = torch.nn.functional.one_hot(hard_labels(masks.flatten(0, 1)), slots).float().mean(dim=(1, 2))
    entropy = torch.special.entr(masks.float()).sum(dim=2).mean() / torch.tensor(float(slots)).log()
    found = {"slots_used": (winners > LEAST_SHARE).float().sum(dim=1).mean(), "mask_entropy": entropy}
    if len(masks) > 1:
        first = masks[:, 0].float().flatten(2)
        first = first - first.mean(dim=2, keepdim=True)
        first = first / first.norm(dim=2, keepdim=True).clamp(min=1e-6)
        found["mask_repetition"] = (first * first.roll(1, dims=0)).sum(dim=2).mean()
    return found


def against_blocks(
    masks: Float[Tensor, "B T K H W"], truth: Integer[Tensor, "B T H W"]
) -> dict[str, Float[Tensor, ""]]:
    """FG-ARI per frame of the masks, and of the best grid of blocks in their place; NaN without foreground anywhere."""
    labels, truth = hard_labels(masks.flatten(0, 1)), truth.flatten(0, 1).long()
    return {
        "fg_ari": foreground_ari(truth, labels).nanmean().float(),
        "fg_ari_of_blocks": foreground_ari_of_blocks(truth).float(),
    }


def complaints(scalars: Mapping[str, float]) -> list[str]:
    """What is wrong, in words, if anything."""
    return [what for name, is_bad, what in WARNINGS if name in scalars and is_bad(scalars[name])]
