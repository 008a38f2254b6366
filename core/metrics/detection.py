"""Boxes around objects: of label maps, their formats, how they overlap, how many are found.

Boxes are (x1, y1, x2, y2) on the last axis, left, top, right and bottom, unless a name says otherwise. Those of label
maps are pixel indices and inclusive, as SlotFormer and CLEVRER have them; areas are (x2 - x1) * (y2 - y1) all the same,
so that an object one pixel wide or high overlaps with nothing.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Integer, Shaped
from torch import Tensor

ABSENT = -1.0
"""All four coordinates of a box that is not there."""
IOU_THRESHOLD = 0.5
Origin = Literal["center", "corner"]


def corners_of_sizes(boxes: Float[Tensor, "*B 4"], origin: Origin) -> Float[Tensor, "*B 4"]:
    """(x, y, width, height) to (x1, y1, x2, y2); x and y are the box's centre or its upper left corner."""
    place, size = boxes.split(2, dim=-1)
    first = place - size / 2 if origin == "center" else place
    return torch.cat([first, first + size], dim=-1)


def sizes_of_corners(boxes: Float[Tensor, "*B 4"], origin: Origin) -> Float[Tensor, "*B 4"]:
    """(x1, y1, x2, y2) to (x, y, width, height), the inverse of `corners_of_sizes`."""
    first, last = boxes.split(2, dim=-1)
    size = last - first
    return torch.cat([first + size / 2 if origin == "center" else first, size], dim=-1)


def pairwise_iou(
    boxes_a: Float[Tensor, "*B M 4"],
    boxes_b: Float[Tensor, "*B N 4"],
    classes_a: Shaped[Tensor, "*B M"] | None = None,
    classes_b: Shaped[Tensor, "*B N"] | None = None,
) -> Float64[Tensor, "*B M N"]:
    """Intersection over union of every box with every other; 0 where both are without area.

    With classes, 0 for boxes of different ones.
    """
    a, b = boxes_a.double().unsqueeze(-2), boxes_b.double().unsqueeze(-3)
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    union = _area(a) + _area(b) - overlap
    iou = torch.where(union > 0, overlap / union, torch.zeros_like(union))
    if classes_a is not None and classes_b is not None:
        iou = iou * (classes_a.unsqueeze(-1) == classes_b.unsqueeze(-2))
    return iou


def _area(boxes: Float64[Tensor, "*B 4"]) -> Float64[Tensor, "*B"]:
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)


def boxes_of_labels(labels: Integer[Tensor, "*B H W"], num_labels: int) -> Float32[Tensor, "*B {num_labels} 4"]:
    """The smallest box, in inclusive pixel indices, around each of the labels 0 to `num_labels` - 1.

    -1 throughout for a label that does not occur; larger labels have no box.
    """
    *leading, height, width = labels.shape
    flat = labels.reshape(-1, height, width).long()
    # A row behind the last takes the labels without a box.
    flat = torch.where((flat >= 0) & (flat < num_labels), flat, num_labels)
    spans = []
    for length, positions in ((width, torch.arange(width)), (height, torch.arange(height).unsqueeze(1))):
        occurs = torch.zeros(len(flat), (num_labels + 1) * length, dtype=torch.uint8, device=labels.device)
        cells = flat * length + positions.to(labels.device)
        occurs = occurs.scatter_(1, cells.flatten(1), 1).view(-1, num_labels + 1, length)[:, :-1]
        first, last = occurs.argmax(dim=2), length - 1 - occurs.flip(2).argmax(dim=2)
        spans.append((first, last, occurs.amax(dim=2) > 0))
    (left, right, is_there), (top, bottom, _) = spans
    boxes = torch.stack([left, top, right, bottom], dim=-1).float()
    return boxes.masked_fill(~is_there.unsqueeze(-1), ABSENT).view(*leading, num_labels, 4)


def precision_and_recall(
    pred_boxes: Float[Tensor, "*B P 4"],
    true_boxes: Float[Tensor, "*B E 4"],
    visible: Bool[Tensor, "*B E"],
    threshold: float = IOU_THRESHOLD,
    *,
    undefined: float = math.nan,
) -> tuple[Float64[Tensor, "*B"], Float64[Tensor, "*B"]]:
    """Share of the predicted boxes that are an object, and share of the objects found, in every image (SlotFormer).

    Protocol: every visible object, in the order given, takes the predicted box of the largest IoU, the first of them on
    ties. It is found if that IoU is at least `threshold` and no object before it has found the same box; it does not
    fall back on its second best. Predicted boxes of -1 are not there.

    undefined: the precision without predicted boxes, and the recall without objects.
    """
    pred_boxes = F.pad(pred_boxes, (0, 0, 0, 1), value=ABSENT)  # so that there is a box to choose
    is_there = (pred_boxes != ABSENT).any(dim=-1)
    iou = pairwise_iou(true_boxes, pred_boxes) * is_there.unsqueeze(-2)
    best, choice = iou.max(dim=-1)
    is_hit = (best >= threshold) & visible
    # Of the objects that choose one box, just the first counts, so it is boxes that are counted.
    found = torch.zeros_like(is_there).long().scatter_add_(-1, choice, is_hit.long()) > 0
    num_found = found.sum(dim=-1).double()
    precision, recall = (
        (num_found / total).masked_fill(total == 0, undefined) for total in (is_there.sum(dim=-1), visible.sum(dim=-1))
    )
    return precision, recall
