"""The rules by which models of all papers are compared: a named protocol that stands beside every figure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from core.benchmark.resizing import labels_at, resized
from core.metrics.reconstruction import SSIM_WINDOW, mse, psnr, ssim
from core.metrics.segmentation import (
    adjusted_rand_index,
    foreground_ari,
    hard_labels,
    matched_iou,
    mean_best_overlap,
    set_overlaps_apart,
)
from core.types import Decomposition

Distance = Callable[[Float[Tensor, "N 3 H W"], Float[Tensor, "N 3 H W"]], Float[Tensor, " N"]]
"""Of pictures in [-1, 1], as core.metrics.perceptual.LPIPS measures it."""
SEGMENTATION = ("fg_ari", "ari", "miou", "mbo")
SCORES = {
    "fg_ari": ("FG-ARI", 1),
    "ari": ("ARI", 1),
    "miou": ("mIoU", 1),
    "mbo": ("mBO", 1),
    "video_fg_ari": ("FG-ARI video", 1),
    "video_ari": ("ARI video", 1),
    "video_miou": ("mIoU video", 1),
    "video_mbo": ("mBO video", 1),
    "mse": ("MSE", -1),
    "psnr": ("PSNR", 1),
    "ssim": ("SSIM", 1),
    "lpips": ("LPIPS", -1),
    "slots_used": ("slots used", 0),
    "slot_entropy": ("slot entropy", 0),
}
"""Title of each score, and whether more is better (1), less is (-1), or neither."""


@dataclass(frozen=True)
class Protocol:
    """What is scored and how; every field is written into every result.

    frames: how many of the first frames of a video count; None: all.
    used_share: a slot is used in a picture if it owns at least this share of the pixels.
    """

    name: str = "objectcentric-1"
    split: str = "test"
    frames: int | None = None
    pictures: bool = True
    used_share: float = 0.005
    background: str = (
        "true label 0 is background: no object for FG-ARI, mIoU and mBO, one more segment for ARI. What is predicted "
        "there counts for ARI, and in the unions of mIoU and mBO. No slot is left out of the prediction. Pixels that "
        "belong to several objects (COCO, VOC) count as background, predicted by a segment of their own"
    )
    masks: str = (
        "what the model's decompose gives: the mixture's weights, or for models that decode no masks (STEVE, SLATE, "
        "SlotDiffusion) the attention of the last iteration; models of objects give what these leave over as "
        "one more slot"
    )
    resolution: str = (
        "pictures are resized to the model's resolution (antialiased bilinear); its soft masks back to that of the "
        "labels (antialiased bilinear), then arg-max over slots, the first on ties. Labels have the size that the data "
        "string says; without one pictures, views and one's own data keep that of their files, videos of published "
        "sets are read at 128x128, photographs (COCO, VOC) as squares of 224x224"
    )
    segmentation: str = (
        "FG-ARI: adjusted Rand index over pixels of true objects. mIoU: one-to-one (Hungarian) matching of objects and "
        "slots by IoU, objects without a slot count 0. mBO: best IoU of any slot for each object"
    )
    undefined: str = (
        "a picture without objects has no FG-ARI, mIoU and mBO and is left out of their means; with a single object "
        "FG-ARI is 1 if one slot has all of it, else 0. PSNR of an exact copy is infinite and left out"
    )
    video: str = (
        "scores of a sample are means over its frames (or views); video_* take all frames together, so that an object "
        "must stay in its slot. Models of pictures see each frame by itself"
    )
    reconstruction: str = (
        "at the model's resolution, pictures in [0, 1], made of the slots alone: words are generated one after the "
        "other, diffusion samples from noise keyed by the sample. SSIM: 11x11 Gaussian window; LPIPS: VGG16, where its "
        "published weights are on this machine"
    )
    slots: str = (
        "slots_used: how many slots own at least used_share of a picture's pixels by arg-max at the model's "
        "resolution; slot_entropy: entropy in nats of their shares"
    )
    statistics: str = (
        "a sample is a picture, a video, or a scene from one input view; mean and standard deviation over samples that "
        "have a value, and the interval from the 2.5th to the 97.5th percentile of the means of 10,000 "
        "resamplings of these samples, seeded by 0"
    )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def key(self) -> str:
        """Short hash of all fields."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """The name, what the user chose, and the rules."""
        frames = "all frames" if self.frames is None else f"the first {self.frames} frames"
        fields = ("background", "masks", "resolution", "segmentation", "undefined", "video", "reconstruction", "slots")
        lines = [f"{self.name} ({self.key}): split {self.split}, {frames} of videos"]
        return "\n  ".join([*lines, *(f"{name}: {getattr(self, name)}" for name in (*fields, "statistics"))])


def segmentation_of(
    masks: Float[Tensor, "B T K H W"],
    labels: Integer[Tensor, "B T H2 W2"],
    overlap: Integer[Tensor, "B T H2 W2"] | None = None,
) -> dict[str, Float64[Tensor, " B"]]:
    """The scores of SEGMENTATION of every sample: means over frames, and of all frames together as `video_*`.

    The latter are there if T > 1. NaN where a sample has no value. See `set_overlaps_apart` for `overlap`.
    """
    predicted = labels_at(masks, tuple(labels.shape[-2:]))
    if overlap is not None:
        labels, predicted = set_overlaps_apart(labels, predicted, overlap)
    by_frame = _scores_of_labels(labels.flatten(0, 1), predicted.flatten(0, 1))
    scores = {name: values.view(labels.shape[:2]).nanmean(dim=1) for name, values in by_frame.items()}
    if labels.shape[1] > 1:
        scores |= {f"video_{name}": values for name, values in _scores_of_labels(labels, predicted).items()}
    return scores


def _scores_of_labels(
    labels: Integer[Tensor, "B *shape"], predicted: Int64[Tensor, "B *shape"]
) -> dict[str, Float64[Tensor, " B"]]:
    return {
        "fg_ari": foreground_ari(labels, predicted),
        "ari": adjusted_rand_index(labels, predicted, ignore_background=False),
        "miou": matched_iou(labels, predicted, ignore_background=True),
        "mbo": mean_best_overlap(labels, predicted),
    }


def reconstruction_of(
    recon: Float[Tensor, "B T 3 H W"], video: Float[Tensor, "B T 3 H2 W2"], lpips: Distance | None = None
) -> dict[str, Float64[Tensor, " B"]]:
    """MSE, PSNR, SSIM (of pictures that its window fits into) and LPIPS of every sample, means over frames.

    PSNR leaves out frames that are exact copies, NaN where all are.
    """
    recon, video = recon.float(), resized(video, tuple(recon.shape[-2:]))
    scores = {"mse": mse(recon, video), "psnr": psnr(recon, video)}
    if min(recon.shape[-2:]) >= SSIM_WINDOW:
        scores["ssim"] = ssim(recon, video)
    if lpips is not None:
        distances = lpips(2 * recon.flatten(0, 1) - 1, 2 * video.flatten(0, 1) - 1)
        scores["lpips"] = distances.double().view(recon.shape[:2])
    means = {name: values.mean(dim=1) for name, values in scores.items()}
    exact = scores["psnr"].isposinf()
    return means | {"psnr": scores["psnr"].masked_fill(exact, 0).sum(dim=1) / (~exact).sum(dim=1)}


def slot_usage_of(masks: Float[Tensor, "B T K H W"], used_share: float) -> dict[str, Float64[Tensor, " B"]]:
    """How many slots own pixels, and the entropy of their shares in nats, of every sample; means over frames."""
    num_slots, owners = masks.shape[2], hard_labels(masks).flatten(2)
    counts = torch.nn.functional.one_hot(owners, num_slots).sum(dim=2).double()
    shares = counts / owners.shape[2]
    entropy = -torch.special.xlogy(shares, shares).sum(dim=2)
    return {"slots_used": (shares >= used_share).sum(dim=2).double().mean(dim=1), "slot_entropy": entropy.mean(dim=1)}


def scores_of(
    protocol: Protocol,
    found: Decomposition | Float[Tensor, "B T K H W"],
    video: Float[Tensor, "B T 3 H2 W2"],
    labels: Integer[Tensor, "B T H2 W2"] | None,
    overlap: Integer[Tensor, "B T H2 W2"] | None = None,
    lpips: Distance | None = None,
) -> dict[str, Float64[Tensor, " B"]]:
    """All scores of a batch that exist: of a decomposition with frames, or of masks alone."""
    masks = found if isinstance(found, Tensor) else found.masks
    scores = segmentation_of(masks, labels, overlap) if labels is not None else {}
    if not isinstance(found, Tensor):
        scores |= reconstruction_of(found.recon, video, lpips)
    return scores | slot_usage_of(masks, protocol.used_share)
