"""Boxes against plain loops."""

import math

import numpy as np
import pytest
import torch

from core.metrics.detection import (
    boxes_of_labels,
    corners_of_sizes,
    pairwise_iou,
    precision_and_recall,
    sizes_of_corners,
)


def random_boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, 12, (*shape, 2), generator=generator).float()
    return torch.cat([first, first + torch.randint(1, 9, (*shape, 2), generator=generator)], dim=-1)


def loop_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def loop_precision_and_recall(pred, true, threshold):
    taken = set()
    for box in true:
        overlaps = [loop_iou(box, other) for other in pred]
        if overlaps and max(overlaps) >= threshold:
            taken.add(overlaps.index(max(overlaps)))
    return [len(taken) / len(boxes) if len(boxes) else math.nan for boxes in (pred, true)]


@pytest.mark.parametrize("origin", ["center", "corner"])
def test_formats(origin):
    boxes = random_boxes(2, 5)
    sizes = sizes_of_corners(boxes, origin)
    assert torch.equal(corners_of_sizes(sizes, origin), boxes)
    assert torch.equal(sizes[..., 2], boxes[..., 2] - boxes[..., 0])
    (x, y) = (4.0, 6.0) if origin == "center" else (3.0, 4.0)
    assert sizes_of_corners(torch.tensor([3.0, 4.0, 5.0, 8.0]), origin).tolist() == [x, y, 2, 4]


def test_pairwise_iou():
    a, b = random_boxes(3, 4, seed=1), random_boxes(3, 6, seed=2)
    iou = pairwise_iou(a, b)
    assert iou.shape == (3, 4, 6)
    for i, j, k in np.ndindex(3, 4, 6):
        assert iou[i, j, k].item() == pytest.approx(loop_iou(a[i, j].tolist(), b[i, k].tolist()), abs=1e-12)
    classes_a, classes_b = torch.tensor([[0, 1, 0, 1]] * 3), torch.tensor([[0, 0, 0, 1, 1, 1]] * 3)
    same = classes_a[:, :, None] == classes_b[:, None]
    assert torch.equal(pairwise_iou(a, b, classes_a, classes_b), iou * same)
    point = torch.tensor([[2.0, 2.0, 2.0, 2.0]])
    assert pairwise_iou(point, point).item() == 0


@pytest.mark.parametrize("shape", [(3, 5, 9), (2, 2, 8, 6), (4, 1)])
def test_boxes_of_labels(shape):
    labels = torch.randint(0, 6, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels[labels == 2] = 0
    boxes = boxes_of_labels(labels, 4)
    assert boxes.shape == (*shape[:-2], 4, 4)
    for index in np.ndindex(shape[:-2]):
        for label in range(4):
            rows, columns = np.nonzero(labels[index].numpy() == label)
            box = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [-1] * 4
            assert boxes[index][label].tolist() == box


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_precision_and_recall_of_many_frames_at_once(threshold):
    true, pred = random_boxes(40, 5, seed=3), random_boxes(40, 7, seed=4)
    near = torch.rand(40, 5, generator=torch.Generator().manual_seed(5)) < 0.6
    pred[:, :5] = torch.where(near[..., None], true + torch.tensor([0.0, 0, 1, 0]), pred[:, :5])
    generator = torch.Generator().manual_seed(6)
    visible = torch.rand(40, 5, generator=generator) < 0.7
    pred[torch.rand(40, 7, generator=generator) < 0.3] = -1
    visible[0], pred[1] = False, -1
    found = torch.stack(precision_and_recall(pred, true, visible, threshold), dim=1)
    expected = [
        loop_precision_and_recall(p[p[:, 0] >= 0].tolist(), t[v].tolist(), threshold)
        for p, t, v in zip(pred, true, visible)
    ]
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-12, nan_ok=True)
    assert found[:, 1].nanmean() > 0.2
    one_by_one = [precision_and_recall(p, t, v, threshold) for p, t, v in zip(pred, true, visible)]
    assert found.nan_to_num(-1).equal(torch.tensor(one_by_one, dtype=torch.float64).nan_to_num(-1))


def test_an_object_does_not_fall_back_on_its_second_best():
    first, second = [0.0, 0, 10, 10], [0.0, 0, 10, 9]
    true, visible = torch.tensor([first, first]), torch.tensor([True, True])
    precision, recall = precision_and_recall(torch.tensor([first, second]), true, visible)
    assert (precision, recall) == (0.5, 0.5)
    # Of two equal boxes the first is chosen, by both objects.
    assert precision_and_recall(torch.tensor([first, first]), true, visible)[1] == 0.5


def test_nothing_to_find_and_nothing_found():
    true, pred, present = random_boxes(1, 2), random_boxes(1, 3), torch.tensor([[True, True]])
    nothing, no_boxes = torch.full((1, 3, 4), -1.0), torch.zeros(1, 0, 4)
    assert precision_and_recall(pred, true, ~present)[1].isnan()
    assert precision_and_recall(pred, true, ~present)[0] == 0
    for absent in (nothing, no_boxes):
        precision, recall = precision_and_recall(absent, true, present)
        assert precision.isnan()
        assert recall == 0
        assert precision_and_recall(absent, true, present, undefined=0.0)[0] == 0
