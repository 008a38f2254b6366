"""The evaluator of the ClevrTex benchmark (Karazija et al. 2021), which several of the papers report.

Shapes: B images, K predicted slots, S = as many slots as truth and prediction need, N images so far. Truth comes as
labels, 0 being the background and label i + 1 the object i of the scene's description; predictions are compared as hard
masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from core.metrics.segmentation import (
    Alignment,
    adjusted_rand_index_of_table,
    align_labels,
    contingency,
    hard_labels,
    intersection_over_union,
    with_background,
)
from core.types import Decomposition

STATISTICS = ("MSE", "acc", "mIoU", "mIoU_fg", "mIoU_gt", "mSC", "DICE", "DICE_FG", "ARI", "ARI_FG")
NEED_OBJECTS = ("mIoU_fg", "DICE_FG")  # no value where neither truth nor prediction has an object
DIFFERENT_IN_ORIGINAL = ("mIoU_fg", "mSC", "DICE_FG")
SEGMENT_STATISTICS = ("ground_mse", "ground_iou", "obj_mse", "obj_iou")
TAGS = ("material", "shape", "size", "color")
PROTOCOL = (
    "hard masks at the resolution of the labels; MSE summed over channels and pixels; mIoU and DICE after Hungarian "
    "matching of all slots, background included, over slots non-empty on either side, _fg without the background, _gt "
    "over slots of the truth; mSC over all true labels by area; ARI over all pixels, ARI_FG over pixels of true "
    "objects; ground and obj: squared error and IoU of the background and of every described object"
)
AS_DEFINED = "; images without any object are left out of mIoU_fg and DICE_FG"
AS_ORIGINAL = "; _original: as the benchmark's own evaluator, without the largest label in mSC"
NUM_RESAMPLES = 1000

Metadata = Mapping[str, Any]
"""What an image shows: `ground_material`, and `objects` with the keys of TAGS that its variant has."""


def clevrtex_statistics(
    pred_image: Float[Tensor, "B C H W"],
    pred_masks: Float[Tensor, "B K H W"],
    true_image: Float[Tensor, "B C H W"],
    true_labels: Integer[Tensor, "B H W"],
) -> dict[str, Float64[Tensor, B]]:
    """Every statistic of every image, under the benchmark's names.

    MSE      squared error SUMMED over channels and pixels
    acc      1 if as many slots are non-empty in the prediction as in the truth, background included, else 0
    mIoU     after Hungarian matching of all slots: mean IoU over slots that are non-empty on either side
    mIoU_fg  the same without label 0 and the slot matched to it
    mIoU_gt  mean over the true slots only
    mSC      segmentation covering (Arbelaez et al. 2011): largest IoU of every true label, weighted by its area
    DICE, DICE_FG  2 |P and T| / (|P| + |T|) of the same pairs, averaged as mIoU and mIoU_fg
    ARI, ARI_FG    adjusted Rand index over all pixels, and over pixels of true objects (1 if there are none)

    mIoU_fg and DICE_FG are NaN for an image with a single segment. Raises ValueError if shapes do not agree.
    """
    error = squared_error(pred_image, true_image)
    alignment = align_masks(pred_masks, true_labels)
    return {"MSE": error.sum(dim=(1, 2)), **segment_statistics(alignment.table)}


def segment_statistics(table: Float64[Tensor, "B S S"], *, as_original: bool = False) -> dict[str, Float64[Tensor, B]]:
    """The statistics but MSE, from the contingency table of true labels and the slots that are matched to them.

    as_original: the means over objects take one slot for the background even where neither side has any.
    """
    both = torch.diagonal(table, dim1=1, dim2=2)
    true_sizes, pred_sizes = table.sum(dim=2), table.sum(dim=1)
    iou = both / (true_sizes + pred_sizes - both).clamp(min=1)
    dice = 2 * both / (true_sizes + pred_sizes).clamp(min=1)
    in_truth, in_prediction = true_sizes > 0, pred_sizes > 0
    in_either = in_truth | in_prediction
    num_objects = in_either.sum(dim=1) - 1 if as_original else in_either[:, 1:].sum(dim=1)
    best = intersection_over_union(table).amax(dim=2)
    return {
        "acc": (in_truth.sum(dim=1) == in_prediction.sum(dim=1)).double(),
        "mIoU": iou.sum(dim=1) / in_either.sum(dim=1),
        "mIoU_fg": iou[:, 1:].sum(dim=1) / num_objects,
        "mIoU_gt": iou.sum(dim=1) / in_truth.sum(dim=1),
        "mSC": (best * true_sizes).sum(dim=1) / true_sizes.sum(dim=1),
        "DICE": dice.sum(dim=1) / in_either.sum(dim=1),
        "DICE_FG": dice[:, 1:].sum(dim=1) / num_objects,
        "ARI": adjusted_rand_index_of_table(table),
        "ARI_FG": adjusted_rand_index_of_table(table[:, 1:], undefined=1.0),
    }


def original_covering(alignment: Alignment, true_labels: Integer[Tensor, "B H W"]) -> Float64[Tensor, B]:
    """mSC as the original computes it: without the largest label that occurs, in the truth and in the prediction.

    A batch of one image loses its batch axis there, so that the first row of pixels stands for the image. NaN where no
    label is left; the original stopped with an error.
    """
    table = alignment.table
    if len(table) == 1:
        table = contingency(true_labels[:, 0].long(), alignment.labels[:, 0], *table.shape[1:])
    areas = table.sum(dim=2)
    last_true, last_pred = _largest_label(areas), _largest_label(table.sum(dim=1))
    areas = areas.scatter(1, last_true, 0.0)
    best = intersection_over_union(table).scatter(2, last_pred[:, None].expand(-1, table.shape[1], -1), 0.0).amax(dim=2)
    return (best * areas).sum(dim=1) / areas.sum(dim=1)


def _largest_label(sizes: Float64[Tensor, "B S"]) -> Int64[Tensor, "B 1"]:
    labels = torch.arange(sizes.shape[1], device=sizes.device)
    return ((sizes > 0) * labels).amax(dim=1, keepdim=True)


def align_masks(pred_masks: Float[Tensor, "B K H W"], true_labels: Integer[Tensor, "B H W"]) -> Alignment:
    """Hard masks, matched to the true labels by IoU."""
    num_slots = max(int(true_labels.max()) + 1, pred_masks.shape[1])
    return align_labels(true_labels, hard_labels(pred_masks), num_slots)


def squared_error(pred_image: Float[Tensor, "B C H W"], true_image: Float[Tensor, "..."]) -> Float64[Tensor, "B H W"]:
    """Squared error summed over channels. Raises ValueError if the shapes differ."""
    if pred_image.shape != true_image.shape:
        shapes = f"{tuple(pred_image.shape)} and {tuple(true_image.shape)}"
        raise ValueError(f"predicted and true images must have one shape, found {shapes}")
    return (pred_image.double() - true_image.double()).square().sum(dim=1)


def bootstrap_interval(values: Float64[Tensor, N]) -> tuple[float, float]:
    """95 % interval of the mean of `values`, drawn 1000 times with replacement from one seed; NaN without values."""
    if len(values) == 0:
        return math.nan, math.nan
    generator = torch.Generator().manual_seed(0)
    draws = (torch.randint(len(values), (len(values),), generator=generator) for _ in range(NUM_RESAMPLES))
    means = torch.stack([values[draw].mean() for draw in draws])
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


class ClevrTexEvaluator:
    """Collects the statistics of images, of their background and of their objects, batch by batch.

    Besides STATISTICS, for images that come with a description: `ground_mse` and `ground_iou` (error and IoU of the
    background, told apart by ground material), `obj_mse` and `obj_iou` (of every visible object, told apart by TAGS).
    Everything is computed on the device of the prediction; values are kept one by one.

    masks_have_background: False for models whose masks show objects only: slot 0 is then what they leave over.
    as_original: the numbers of the original evaluator, defects included; those that differ are called `mSC_original`,
        `mIoU_fg_original` and `DICE_FG_original`, and one image without a value leaves their mean without one.
    """

    def __init__(self, *, masks_have_background: bool = True, as_original: bool = False):
        self.settings = {"masks_have_background": masks_have_background, "as_original": as_original}
        self._values: dict[str, list[Float64[Tensor, N]]] = {}
        self._tags: dict[str, list[dict[str, str]]] = {"ground": [], "obj": []}

    def update(
        self,
        prediction: Decomposition,
        true_image: Float[Tensor, "B 3 H W"],
        true_labels: Integer[Tensor, "B H W"],
        metadata: Sequence[Metadata] | None = None,
    ) -> Alignment:
        """Add a batch of images in [0, 1]; returns how slots were matched to true labels.

        An object without a visible pixel counts nowhere, one without a description in the image's statistics only.

        Raises ValueError for videos, if shapes do not agree, or if there is not one description per image.
        """
        if prediction.is_video:
            raise ValueError("the evaluator takes images, found a video; flatten batch and frames into one axis")
        if metadata is not None and len(metadata) != len(true_labels):
            raise ValueError(f"metadata: expected one entry per image, {len(true_labels)}, found {len(metadata)}")
        as_original = self.settings["as_original"]
        masks = prediction.masks if self.settings["masks_have_background"] else with_background(prediction.masks)
        error = squared_error(prediction.recon, true_image)
        alignment = align_masks(masks, true_labels)
        found = {"MSE": error.sum(dim=(1, 2)), **segment_statistics(alignment.table, as_original=as_original)}
        if as_original:
            found["mSC"] = original_covering(alignment, true_labels)
        for name in STATISTICS:
            self._add(self._result_name(name), found[name])
        if metadata is not None:
            self._add_segments(alignment.table, error, true_labels, metadata)
        return alignment

    def _add_segments(
        self,
        table: Float64[Tensor, "B S S"],
        error: Float64[Tensor, "B H W"],
        true_labels: Integer[Tensor, "B H W"],
        metadata: Sequence[Metadata],
    ) -> None:
        """Error and IoU of the background and of the visible objects that the metadata describe."""
        errors = torch.zeros_like(table[:, :, 0])
        errors.scatter_add_(1, true_labels.flatten(1).long(), error.flatten(1))
        iou = torch.diagonal(intersection_over_union(table), dim1=1, dim2=2)
        self._add("ground_mse", errors[:, 0])
        self._add("ground_iou", iou[:, 0])
        self._tags["ground"] += [{"ground_material": str(scene["ground_material"])} for scene in metadata]

        visible = (table.sum(dim=2) > 0).tolist()
        positions = []
        for image, scene in enumerate(metadata):
            for label, described in enumerate(scene["objects"], start=1):
                if label < table.shape[1] and visible[image][label]:
                    positions.append((image, label))
                    self._tags["obj"].append({tag: str(described[tag]) for tag in TAGS if tag in described})
        images, labels = torch.tensor(positions, dtype=torch.long, device=table.device).view(-1, 2).unbind(dim=1)
        self._add("obj_mse", errors[images, labels])
        self._add("obj_iou", iou[images, labels])

    def _result_name(self, statistic: str) -> str:
        differs = self.settings["as_original"] and statistic in DIFFERENT_IN_ORIGINAL
        return f"{statistic}_original" if differs else statistic

    def _add(self, name: str, values: Float64[Tensor, N]) -> None:
        self._values.setdefault(name, []).append(values.detach())

    def values(self) -> dict[str, Float64[Tensor, N]]:
        """Every value of every statistic, in the order of the updates, on the CPU; NaN where there is none."""
        return {name: torch.cat([part.cpu() for part in parts]) for name, parts in self._values.items()}

    def state(self) -> dict[str, Any]:
        """All that was collected, to be sent to another process or kept in a file, and merged there."""
        tags = {group: list(of_group) for group, of_group in self._tags.items()}
        return {"settings": dict(self.settings), "values": self.values(), "tags": tags}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Append what another evaluator collected. Raises ValueError if its settings were others."""
        if state["settings"] != self.settings:
            raise ValueError(f"evaluators of {self.settings} and {state['settings']} cannot be merged")
        for name, values in state["values"].items():
            self._add(name, values)
        for group, tags in state["tags"].items():
            self._tags[group] += tags

    def results(self) -> dict[str, Any]:
        """Protocol, means, spreads and counts, ready for JSON; None for a number that is undefined.

        `statistics[name]` has the mean, the population standard deviation and the number of values, and for statistics
        of whole images `interval`, the 95 % bootstrap interval of the mean. `by_tag[name][tag][value]` has the same
        without the interval, in ascending order of the mean.
        """
        collected = self.values()
        values = {name: found[~found.isnan()] if name in NEED_OBJECTS else found for name, found in collected.items()}
        statistics: dict[str, dict[str, Any]] = {name: _summary(found) for name, found in values.items()}
        for name in statistics.keys() - set(SEGMENT_STATISTICS):
            statistics[name]["interval"] = [_or_none(bound) for bound in bootstrap_interval(values[name])]
        return {
            "protocol": PROTOCOL + (AS_ORIGINAL if self.settings["as_original"] else AS_DEFINED),
            **self.settings,
            "num_images": len(collected.get("MSE", ())),
            "statistics": statistics,
            "by_tag": {
                name: _by_tag(values[name], self._tags[name.partition("_")[0]])
                for name in SEGMENT_STATISTICS
                if name in values
            },
        }


def _by_tag(values: Float64[Tensor, N], tags: Sequence[Mapping[str, str]]) -> dict[str, dict[str, dict]]:
    positions: dict[str, dict[str, list[int]]] = {}
    for position, tagged in enumerate(tags):
        for tag, value in tagged.items():
            positions.setdefault(tag, {}).setdefault(value, []).append(position)
    return {
        tag: {
            value: _summary(values[of_tag[value]]) for value in sorted(of_tag, key=lambda v: values[of_tag[v]].mean())
        }
        for tag, of_tag in positions.items()
    }


def _summary(values: Float64[Tensor, N]) -> dict[str, float | int | None]:
    mean = values.mean()
    return {"mean": _or_none(mean), "std": _or_none((values - mean).square().mean().sqrt()), "count": len(values)}


def _or_none(value: Float64[Tensor, ""] | float) -> float | None:
    """None for what JSON has no number for."""
    return float(value) if math.isfinite(value) else None
