"""The scores of predicted videos, frame by frame, as SlotFormer (Wu et al. 2023) reports them.

All videos and frames of a batch are scored at once, to (B, T) values; `StepMeans` makes one mean per predicted step of
them. A frame without objects has no value (NaN) where objects are scored, and is left out of the mean. `as_original`
gives what the original computes instead, where that differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor

from core.metrics.detection import precision_and_recall
from core.metrics.reconstruction import reconstruction_scores
from core.metrics.segmentation import adjusted_rand_index, hard_labels, matched_iou

PICTURE_SCORES = ("mse", "ssim", "psnr", "percept_dist")
OBJECT_SCORES = ("ari", "fari", "miou", "ap", "ar")
CONFIDENCE = 0.5
"""A pixel that no slot claims with at least this much belongs to the background."""


def picture_scores(
    pred: Float[Tensor, "B T 3 H W"],
    truth: Float[Tensor, "B T 3 H W"],
    percept_dist: Callable[[Float[Tensor, "N 3 H W"], Float[Tensor, "N 3 H W"]], Float[Tensor, N]] | None = None,
) -> dict[str, Float64[Tensor, "B T"]]:
    """Scores of every frame's picture; videos are in [-1, 1], predictions may leave it.

    mse           squared error SUMMED over pixels, mean over channels, of pictures in [0, 1]
    ssim, psnr    of pictures in [0, 1], see core/metrics/reconstruction.py; psnr is infinite for equal pictures
    percept_dist  of the unclamped pictures in [-1, 1], by the function given (LPIPS with VGG16 in the paper)

    Raises ValueError if the shapes differ.
    """
    scores = reconstruction_scores(pred, truth, percept_dist)
    scores["mse"] /= pred.shape[2]
    return scores


def confident_labels(masks: Float[Tensor, "*B K H W"]) -> Int64[Tensor, "*B H W"]:
    """The slot with the largest mask at each pixel, or the background slot where none reaches 0.5.

    The background slot is the one whose largest mask value is smallest: it nowhere claims a pixel for itself.
    """
    background = masks.amax(dim=(-2, -1)).argmin(dim=-1)[..., None, None]
    return torch.where(masks.amax(dim=-3) < CONFIDENCE, background, hard_labels(masks))


def object_scores(
    pred_labels: Integer[Tensor, "B T H W"],
    true_labels: Integer[Tensor, "B T H W"],
    pred_boxes: Float[Tensor, "B T P 4"],
    true_boxes: Float[Tensor, "B T E 4"],
    visible: Bool[Tensor, "B T E"],
    *,
    as_original: bool = False,
) -> dict[str, Float64[Tensor, "B T"]]:
    """Scores of every frame's objects. Label 0 of the truth is the background; predicted labels mean slots.

    ari, fari  adjusted Rand index over all pixels, and over those of true objects
    miou       IoU of the true objects after Hungarian matching with the slots, background slot included
    ap, ar     precision and recall of boxes at an IoU of 0.5, see `precision_and_recall`

    Without objects fari, miou and ar are NaN, without predicted boxes ap is.
    as_original: fari is 1 without objects, and miou counts every label below the largest one of the frame as an object,
        whether it occurs or not. Give `StepMeans` the same switch.

    Raises ValueError if shapes do not agree or a label is negative.
    """
    batch = true_labels.shape[:2]
    truth, prediction = true_labels.flatten(0, 1), pred_labels.flatten(0, 1)
    miou = matched_iou(truth, prediction, ignore_background=True)
    if as_original:
        miou = miou * _num_foreground_labels(truth) / truth.flatten(1).amax(dim=1)
    of_frames = {
        "ari": adjusted_rand_index(truth, prediction, ignore_background=False),
        "fari": adjusted_rand_index(
            truth, prediction, ignore_background=True, undefined=1.0 if as_original else math.nan
        ),
        "miou": miou,
    }
    scores = {name: values.unflatten(0, batch) for name, values in of_frames.items()}
    scores["ap"], scores["ar"] = precision_and_recall(pred_boxes, true_boxes, visible)
    return scores


def _num_foreground_labels(labels: Integer[Tensor, "N H W"]) -> Int64[Tensor, N]:
    """How many labels other than 0 occur in each map."""
    labels = labels.flatten(1).long()
    occurs = torch.zeros(len(labels), int(labels.max()) + 1, dtype=torch.bool, device=labels.device)
    return occurs.scatter_(1, labels, True)[:, 1:].sum(dim=1)


class RunningMean:
    """Weighted mean, entry by entry, of values that arrive in batches; float64 and mergeable over processes.

    keep_nan: a NaN makes its entry's mean NaN, in place of being left out.
    """

    def __init__(self, *, keep_nan: bool = False):
        self.keep_nan = keep_nan
        self.total: Float64[Tensor, "*S"] = torch.zeros((), dtype=torch.float64)
        self.weight: Float64[Tensor, "*S"] = torch.zeros((), dtype=torch.float64)

    def update(self, values: Float[Tensor, "N *S"], weight: float = 1.0) -> None:
        """Add N values of every entry, each of which counts `weight` times."""
        values = values.detach().double()
        counts = torch.ones_like(values) if self.keep_nan else (~values.isnan()).double()
        sums = (values if self.keep_nan else values.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)).sum(dim=0)
        self.merge({"total": weight * sums, "weight": weight * counts.sum(dim=0)})

    def state(self) -> dict[str, Tensor]:
        """All that was collected, to be sent to another process or kept in a file, and merged there."""
        return {"total": self.total.cpu(), "weight": self.weight.cpu()}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add what another one collected."""
        self.total = state["total"] + self.total.to(state["total"].device)
        self.weight = state["weight"] + self.weight.to(state["weight"].device)

    def mean(self, *, undefined: float = math.nan) -> Float64[Tensor, "*S"]:
        """Of every entry; `undefined` for those that have had no value."""
        return (self.total / self.weight).masked_fill(self.weight == 0, undefined)


class StepMeans:
    """Means over videos of every score at every predicted step.

    as_original: a frame that has no value for a score leaves its step without a mean.
    """

    def __init__(self, *, as_original: bool = False):
        self.as_original = as_original
        self._means: dict[str, RunningMean] = {}

    def _mean(self, name: str) -> RunningMean:
        return self._means.setdefault(name, RunningMean(keep_nan=self.as_original))

    def update(self, scores: Mapping[str, Float[Tensor, "B T"]]) -> None:
        """Add a batch of videos; all batches have the same number of steps."""
        for name, values in scores.items():
            self._mean(name).update(values)

    def state(self) -> dict[str, Any]:
        """All that was collected, to be merged in another process."""
        return {"as_original": self.as_original, "means": {name: mean.state() for name, mean in self._means.items()}}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another one collected. Raises ValueError if only one of them is `as_original`."""
        if state["as_original"] != self.as_original:
            raise ValueError("means as the original computes them and others cannot be merged")
        for name, of_score in state["means"].items():
            self._mean(name).merge(of_score)

    def means(self) -> dict[str, Float64[Tensor, T]]:
        """One value per step; NaN where no frame has one."""
        return {name: mean.mean() for name, mean in self._means.items()}

    def counts(self) -> dict[str, Float64[Tensor, T]]:
        """How many videos stand behind each mean."""
        return {name: mean.weight for name, mean in self._means.items()}
