"""How well predicted segments agree with true objects.

Shapes: B images (or videos), P pixels, E true labels, K predicted labels. Everything is computed from one contingency
table per image, on the device of the labels, with counts in float64 (exact up to 2**53 pairs of pixels). A picture may
have any shape behind the batch axis: labels of (B, H, W) are scored per image, labels of (B, T, H, W) per video.
Label 0 of the truth is the background. Predicted labels carry no such meaning. Memory is B * E * K, where E and K are
the largest labels plus one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Integer, Shaped, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def labels_from_masks(masks: UInt8[Tensor, "B E H W"]) -> UInt8[Tensor, "B H W"]:
    """Label each pixel with the highest entity whose mask is 255 there (multi-object .h5 files: entity 0 = background).

    Only the value 255 marks an entity. A pixel that no entity marks takes its largest raw mask value: 0 as a rule, but
    masks written as 0/1 turn every covered pixel into entity 1, as EfficientMORL's evaluation does.

    Raises ValueError for more entities than a uint8 label can name.
    """
    num_entities = masks.shape[1]
    if num_entities > 255:
        raise ValueError(f"masks: expected at most 255 entities (axis 1), found {num_entities}")
    marked = masks == 255
    entities = torch.arange(num_entities, dtype=torch.uint8, device=masks.device).view(1, -1, 1, 1)
    return torch.where(marked.any(dim=1), (marked * entities).amax(dim=1), masks.amax(dim=1))


def hard_labels(masks: Float[Tensor, "*B K H W"]) -> Int64[Tensor, "*B H W"]:
    """The slot with the largest mask at each pixel, the first of them on ties."""
    return masks.max(dim=-3).indices  # eight times as fast as argmax on the CPU


def with_background(masks: Float[Tensor, "B K H W"]) -> Float[Tensor, "B K+1 H W"]:
    """Masks of objects behind the mask of what they leave over, as slot 0."""
    masks = masks.float()
    return torch.cat((1 - masks.sum(dim=1, keepdim=True), masks), dim=1)


def contingency(
    true_labels: Integer[Tensor, "B ..."], pred_labels: Integer[Tensor, "B ..."], num_true: int, num_pred: int
) -> Float64[Tensor, "B {num_true} {num_pred}"]:
    """Number of pixels that carry true label e and predicted label k, per image.

    Raises ValueError if the shapes differ or a label lies outside 0 .. num_true - 1 or 0 .. num_pred - 1.
    """
    if true_labels.shape != pred_labels.shape:
        raise ValueError(
            f"true_labels and pred_labels must have one shape, found {tuple(true_labels.shape)} and "
            f"{tuple(pred_labels.shape)}; resize the predicted masks before the arg-max"
        )
    for name, labels, num_labels in (("true_labels", true_labels, num_true), ("pred_labels", pred_labels, num_pred)):
        low, high = _label_range(labels)
        if low < 0 or high >= num_labels:
            raise ValueError(f"{name}: expected labels 0 to {num_labels - 1}, found {low} to {high}")
    batch_size = true_labels.shape[0]
    num_cells = num_true * num_pred
    first_cells = torch.arange(0, batch_size * num_cells, num_cells, device=true_labels.device).view(-1, 1)
    true_labels, pred_labels = true_labels.reshape(batch_size, -1), pred_labels.reshape(batch_size, -1)
    cells = (true_labels.long() * num_pred).add_(pred_labels).add_(first_cells)
    counts = torch.bincount(cells.flatten(), minlength=batch_size * num_cells)
    return counts.view(batch_size, num_true, num_pred).double()


def _label_range(labels: Integer[Tensor, ...]) -> tuple[int, int]:
    if labels.numel() == 0:
        return 0, 0
    low, high = torch.aminmax(labels)
    return int(low), int(high)


def _contingency_of_present(
    true_labels: Integer[Tensor, "B ..."], pred_labels: Integer[Tensor, "B ..."]
) -> Float64[Tensor, "B E K"]:
    """Contingency table with as many rows and columns as the largest labels need."""
    num_true, num_pred = (max(_label_range(labels)[1], 0) + 1 for labels in (true_labels, pred_labels))
    return contingency(true_labels, pred_labels, num_true, num_pred)


def adjusted_rand_index(
    true_labels: Integer[Tensor, "B ..."],
    pred_labels: Integer[Tensor, "B ..."],
    *,
    ignore_background: bool,
    undefined: float = math.nan,
) -> Float64[Tensor, B]:
    """Agreement of two partitions of the pixels, corrected for chance (Hubert and Arabie 1985, equation 5).

    1 for identical partitions (also where the quotient is 0/0: a single segment, or every pixel its own), 0 on average
    for independent ones, negative for worse. Equals scikit-learn's `adjusted_rand_score` image by image.

    ignore_background: leave out the pixels of true label 0; what is predicted there does not count.
    undefined: the score of an image without any pixel left, that is, without foreground.

    Raises ValueError if the shapes differ or a label is negative.
    """
    table = _contingency_of_present(true_labels, pred_labels)
    return adjusted_rand_index_of_table(table[:, 1:] if ignore_background else table, undefined=undefined)


def adjusted_rand_index_of_table(table: Float64[Tensor, "B E K"], *, undefined: float = math.nan) -> Float64[Tensor, B]:
    """`adjusted_rand_index` over the pixels that a contingency table counts."""
    num_pixels = table.sum(dim=(1, 2))
    # Each sum counts ordered pairs of pixels: together in both partitions, in the true one, in the predicted one.
    together = (table * (table - 1)).sum(dim=(1, 2))
    true_pairs, pred_pairs = ((sizes * (sizes - 1)).sum(dim=1) for sizes in (table.sum(dim=2), table.sum(dim=1)))
    all_pairs = num_pixels * (num_pixels - 1)
    expected = true_pairs * pred_pairs / all_pairs.clamp(min=1)
    score = (together - expected) / ((true_pairs + pred_pairs) / 2 - expected)
    identical = (together == true_pairs) & (together == pred_pairs)
    return score.masked_fill(identical, 1.0).masked_fill(num_pixels == 0, undefined)


def foreground_ari(
    true_labels: Integer[Tensor, "B ..."], pred_labels: Integer[Tensor, "B ..."], *, undefined: float = math.nan
) -> Float64[Tensor, B]:
    """Adjusted Rand index over the pixels of the true objects only (FG-ARI); see `adjusted_rand_index`."""
    return adjusted_rand_index(true_labels, pred_labels, ignore_background=True, undefined=undefined)


def blocks(rows: int, columns: int, height: int, width: int) -> Int64[Tensor, "{height} {width}"]:
    """A picture cut into equal blocks, numbered row by row, which know nothing of its content."""
    row, column = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    return row[:, None] * columns + column[None]


def foreground_ari_of_blocks(true_labels: Integer[Tensor, "B H W"], most: int = 4) -> Float64[Tensor, ""]:
    """Mean FG-ARI of the best grid of at most `most` by `most` blocks: what slots that are mere places can reach.

    Images without a value are left out of the mean.
    """
    scores = []
    for rows, columns in itertools.product(range(1, most + 1), repeat=2):
        grid = blocks(rows, columns, *true_labels.shape[1:]).to(true_labels.device)
        scores.append(foreground_ari(true_labels, grid.expand_as(true_labels)).nanmean())
    return torch.stack(scores).max()


def intersection_over_union(table: Float64[Tensor, "B E K"]) -> Float64[Tensor, "B E K"]:
    """IoU of every true label with every predicted one, over all pixels; 0 where both are absent."""
    union = table.sum(dim=2, keepdim=True) + table.sum(dim=1, keepdim=True) - table
    return table / union.clamp(min=1)


@dataclass(frozen=True)
class Alignment:
    """Predicted labels under the names of the true labels that they are matched to.

    order:  the predicted label that each true label is matched to
    labels: the prediction in the true labels' names
    table:  its contingency table: true labels by matched labels
    """

    order: Int64[Tensor, "B S"]
    labels: Int64[Tensor, "B ..."]
    table: Float64[Tensor, "B S S"]


def align_labels(
    true_labels: Integer[Tensor, "B ..."],
    pred_labels: Integer[Tensor, "B ..."],
    num_labels: int,
    score: Callable[[Float64[Tensor, "B S S"]], Float64[Tensor, "B S S"]] = intersection_over_union,
) -> Alignment:
    """One-to-one matching, per image, of all `num_labels` labels, which makes the sum of scores largest (Hungarian).

    Labels that do not occur are matched too, so that every true label has a partner. `score` makes the scores from the
    contingency table: true labels by predicted ones.

    Raises ValueError if the shapes differ or a label lies outside 0 .. num_labels - 1.
    """
    table = contingency(true_labels, pred_labels, num_labels, num_labels)
    matches = [linear_sum_assignment(scores, maximize=True)[1] for scores in score(table).cpu().numpy()]
    order = torch.from_numpy(np.stack(matches)).to(table.device)
    labels = order.argsort(dim=1).gather(1, pred_labels.flatten(1).long()).view(pred_labels.shape)
    return Alignment(order, labels, table.gather(2, order[:, None].expand_as(table)))


def matched_iou(
    true_labels: Integer[Tensor, "B ..."],
    pred_labels: Integer[Tensor, "B ..."],
    *,
    ignore_background: bool,
    undefined: float = math.nan,
) -> Float64[Tensor, B]:
    """Mean IoU of the true objects under the one-to-one matching with segments that maximises it (mIoU).

    Protocol: an object is a true label that occurs in the image, a segment any predicted label that occurs. Unions are
    taken over all pixels, background included. Hungarian matching per image; an object that gets no segment counts 0;
    the sum is divided by the number of objects in the image. Labels that do not occur count nowhere.

    ignore_background: true label 0 is no object. Segments that cover the background may still be matched to objects.
    undefined: the score of an image without objects.

    Raises ValueError if the shapes differ or a label is negative.
    """
    table = _contingency_of_present(true_labels, pred_labels)
    return matched_iou_of_table(table, ignore_background=ignore_background, undefined=undefined)


def matched_iou_of_table(
    table: Float64[Tensor, "B E K"], *, ignore_background: bool, undefined: float = math.nan
) -> Float64[Tensor, B]:
    """`matched_iou` over the pixels that a contingency table counts."""
    first = 1 if ignore_background else 0
    iou = intersection_over_union(table)[:, first:]
    num_objects = (table[:, first:].sum(dim=2) > 0).sum(dim=1)
    # Rows of absent objects are zero: whatever segment they take, the best sum stays the same.
    matched = [scores[linear_sum_assignment(scores, maximize=True)].sum() for scores in iou.cpu().numpy()]
    return (torch.tensor(matched, dtype=torch.float64, device=iou.device) / num_objects).masked_fill(
        num_objects == 0, undefined
    )


def mean_best_overlap(
    true_labels: Integer[Tensor, "B ..."], pred_labels: Integer[Tensor, "B ..."], *, undefined: float = math.nan
) -> Float64[Tensor, B]:
    """Mean over the true objects of the largest IoU with any segment (mBO; Pont-Tuset et al. 2017).

    Protocol: an object is a true label other than 0 that occurs in the image; several objects may take the same
    segment; unions are taken over all pixels, background included. Labels that do not occur count nowhere.

    undefined: the score of an image without objects.

    Raises ValueError if the shapes differ or a label is negative.
    """
    return mean_best_overlap_of_table(_contingency_of_present(true_labels, pred_labels), undefined=undefined)


def mean_best_overlap_of_table(table: Float64[Tensor, "B E K"], *, undefined: float = math.nan) -> Float64[Tensor, B]:
    """`mean_best_overlap` over the pixels that a contingency table counts."""
    best = intersection_over_union(table)[:, 1:].amax(dim=2)
    num_objects = (table[:, 1:].sum(dim=2) > 0).sum(dim=1)
    return (best.sum(dim=1) / num_objects).masked_fill(num_objects == 0, undefined)


def set_overlaps_apart(
    true_labels: Integer[Tensor, "B ..."], pred_labels: Integer[Tensor, "B ..."], overlap: Integer[Tensor, "B ..."]
) -> tuple[Integer[Tensor, "B ..."], Int64[Tensor, "B ..."]]:
    """Pixels that belong to several instances (`overlap` not 0), as COCO and PASCAL VOC have them, to no one's gain.

    They become background, predicted by a segment of their own.
    """
    is_apart = overlap != 0
    own = _label_range(pred_labels)[1] + 1
    return true_labels.masked_fill(is_apart, 0), pred_labels.long().masked_fill(is_apart, own)


def segmentation_scores(
    true_labels: Integer[Tensor, "B ..."],
    pred_labels: Integer[Tensor, "B ..."],
    overlap: Integer[Tensor, "B ..."] | None = None,
    *,
    as_original: bool = False,
) -> dict[str, Float64[Tensor, B]]:
    """All scores of a segmentation from one contingency table, as SlotDiffusion (Wu et al. 2023) reports them.

    ari, fari    `adjusted_rand_index` over all pixels, and over those of objects
    miou, fmiou  `matched_iou` of all true labels, background included, and of objects
    mbo          `mean_best_overlap` of objects

    Without objects fari, fmiou and mbo are NaN. See `set_overlaps_apart` for `overlap`.
    as_original: fari is 1 without objects, and means count every label up to the largest one, whether it occurs or not.

    Raises ValueError if the shapes differ or a label is negative.
    """
    if overlap is not None:
        true_labels, pred_labels = set_overlaps_apart(true_labels, pred_labels, overlap)
    table = _contingency_of_present(true_labels, pred_labels)
    scores = {
        "ari": adjusted_rand_index_of_table(table),
        "fari": adjusted_rand_index_of_table(table[:, 1:], undefined=1.0 if as_original else math.nan),
        "miou": matched_iou_of_table(table, ignore_background=False),
        "fmiou": matched_iou_of_table(table, ignore_background=True),
        "mbo": mean_best_overlap_of_table(table),
    }
    if as_original:
        occurs = table.sum(dim=2) > 0
        largest = (occurs * torch.arange(occurs.shape[1], device=table.device)).amax(dim=1)
        num_objects = occurs[:, 1:].sum(dim=1)
        scores["miou"] *= occurs.sum(dim=1) / (largest + 1)
        scores["fmiou"] *= num_objects / largest
        scores["mbo"] *= num_objects / largest
    return scores


def match_objects_to_slots(
    true_labels: Integer[Tensor, ...],
    pred_labels: Integer[Tensor, ...],
    presence: Shaped[Tensor, E],
    min_pixels: int = 50,
    min_iou: float = 0.1,
) -> tuple[Int64[Tensor, M], Int64[Tensor, M]]:
    """Objects of one image and the slots that hold them, matched by IoU (EfficientMORL's selection of slots for DCI).

    presence: per entity whether it is in the scene, as numbers or booleans in any order; entity 0 is the background
        and is never matched.
    Objects with fewer than `min_pixels` visible pixels take part in nothing; of the Hungarian matching, pairs with an
    IoU below `min_iou` are dropped.

    Returns the matched entities in ascending order and the slot of each.

    Raises ValueError if the shapes differ, a label is negative or a true label has no presence flag.
    """
    num_slots = max(_label_range(pred_labels)[1], 0) + 1
    table = contingency(true_labels[None], pred_labels[None], presence.shape[0], num_slots)
    candidates = presence.bool() & (table[0].sum(dim=1) >= min_pixels)
    candidates[0] = False
    objects = candidates.nonzero().squeeze(1)
    iou = intersection_over_union(table)[0, objects].cpu()
    rows, slots = (torch.from_numpy(indices) for indices in linear_sum_assignment(iou.numpy(), maximize=True))
    good = iou[rows, slots] >= min_iou
    return objects[rows[good].to(objects.device)], slots[good].to(objects.device)
