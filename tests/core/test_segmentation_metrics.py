"""Segmentation metrics against scikit-learn, exhaustive search and plain loops."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import adjusted_rand_score

from core.metrics.segmentation import (
    adjusted_rand_index,
    contingency,
    foreground_ari,
    hard_labels,
    labels_from_masks,
    match_objects_to_slots,
    matched_iou,
    mean_best_overlap,
    segmentation_scores,
    set_overlaps_apart,
)


@st.composite
def label_pairs(draw):
    """Two label arrays of one shape: (B, P), (B, H, W) or (B, T, H, W)."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=4))
    true = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 4)))
    pred = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 3)))
    return torch.from_numpy(true), torch.from_numpy(pred)


def iou(true, pred, label, segment):
    intersection = ((true == label) & (pred == segment)).sum()
    return intersection / ((true == label) | (pred == segment)).sum()


def reference_matched_iou(true, pred, ignore_background):
    """Largest mean IoU over all ways to give each object a segment of its own, or none."""
    objects = [label for label in np.unique(true) if label or not ignore_background]
    choices = list(np.unique(pred)) + [None] * len(objects)
    totals = [
        sum(iou(true, pred, label, segment) for label, segment in zip(objects, chosen) if segment is not None)
        for chosen in itertools.permutations(choices, len(objects))
    ]
    return max(totals) / len(objects) if objects else math.nan


def reference_best_overlap(true, pred):
    best = [max(iou(true, pred, label, segment) for segment in np.unique(pred)) for label in np.unique(true) if label]
    return np.mean(best) if best else math.nan


@settings(max_examples=150, deadline=None)
@given(label_pairs())
def test_ari_equals_scikit_learn(labels):
    true, pred = labels
    expected = [adjusted_rand_score(t.flatten(), p.flatten()) for t, p in zip(true, pred)]
    assert adjusted_rand_index(true, pred, ignore_background=False).numpy() == pytest.approx(expected, abs=1e-12)

    foreground = [adjusted_rand_score(t[t > 0], p[t > 0]) if (t > 0).any() else math.nan for t, p in zip(true, pred)]
    scores = adjusted_rand_index(true, pred, ignore_background=True)
    assert scores.dtype == torch.float64
    assert scores.numpy() == pytest.approx(foreground, abs=1e-12, nan_ok=True)
    assert torch.equal(foreground_ari(true, pred, undefined=-1.0), scores.nan_to_num(nan=-1.0))


@settings(max_examples=30, deadline=None)
@given(label_pairs(), st.permutations(range(5)), st.permutations(range(4)))
def test_ari_does_not_depend_on_the_names_of_labels(labels, true_names, pred_names):
    true, pred = labels
    renamed = torch.tensor(true_names)[true.long()], torch.tensor(pred_names)[pred]
    expected = adjusted_rand_index(true, pred, ignore_background=False)
    assert adjusted_rand_index(*renamed, ignore_background=False).numpy() == pytest.approx(expected.numpy(), abs=1e-12)


@pytest.mark.parametrize(
    ("true", "pred", "expected"),
    [
        pytest.param([0, 0, 0, 0], [0, 1, 2, 3], math.nan, id="no foreground"),
        pytest.param([0, 1, 1, 1], [0, 2, 2, 2], 1.0, id="one object in one cluster"),
        pytest.param([1, 1, 1, 1], [2, 2, 2, 2], 1.0, id="one object everywhere"),
        pytest.param([0, 1, 1, 1], [0, 0, 1, 1], 0.0, id="one object split"),
        pytest.param([0, 0, 3, 0], [0, 0, 0, 0], 1.0, id="a single pixel"),
        pytest.param([1, 1, 2, 2], [0, 0, 0, 0], 0.0, id="everything in one cluster"),
        pytest.param([1, 2, 3, 4], [3, 1, 0, 2], 1.0, id="all singletons"),
        pytest.param([1, 2, 3, 4], [0, 0, 0, 0], 0.0, id="singletons in one cluster"),
        pytest.param([1, 1, 2, 2], [0, 1, 0, 1], -0.5, id="worse than chance"),
        pytest.param([0, 1, 1, 2], [2, 2, 2, 0], 1.0, id="object lost in the background segment"),
    ],
)
def test_ari_edge_cases(true, pred, expected):
    true, pred = torch.tensor([true]), torch.tensor([pred])
    assert foreground_ari(true, pred).item() == pytest.approx(expected, abs=1e-15, nan_ok=True)
    if (true > 0).any():
        assert adjusted_rand_score(true[true > 0], pred[true > 0]) == pytest.approx(expected)
    else:
        assert foreground_ari(true, pred, undefined=0.0).item() == 0.0


def test_ari_is_exact_for_many_pixels():
    # Products of pair counts reach 1e24 here, where float32 is off in the third digit.
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(0, 2, (1, 1000, 1000), generator=generator)
    pred = torch.where(torch.rand(1, 1000, 1000, generator=generator) < 0.01, 1 - true, true)
    expected = adjusted_rand_score(true.flatten(), pred.flatten())
    assert adjusted_rand_index(true, pred, ignore_background=False).item() == pytest.approx(expected, rel=1e-12)


def test_ari_of_an_evaluation_set_is_fast():
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(0, 4, (320, 35, 35), generator=generator).to(torch.uint8)
    pred = torch.randint(0, 4, (320, 35, 35), generator=generator)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            foreground_ari(true, pred)
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(num_threads)
    assert min(seconds) < 0.020


@pytest.mark.parametrize("metric", [foreground_ari, mean_best_overlap])
def test_wrong_labels_are_refused(metric):
    with pytest.raises(ValueError, match=r"one shape, found \(1, 4, 4\) and \(1, 4, 5\); resize"):
        metric(torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 4, 5, dtype=torch.long))
    labels = torch.tensor([[0, 2, 1]])
    with pytest.raises(ValueError, match="true_labels: expected labels 0 to 2, found -1 to 2"):
        metric(torch.tensor([[-1, 2, 1]]), labels)
    with pytest.raises(ValueError, match="pred_labels: expected labels 0 to 0, found -3 to -1"):
        metric(labels, torch.tensor([[-1, -2, -3]]))


def test_contingency_counts_per_image():
    true = torch.tensor([[0, 1, 1, 2], [2, 2, 2, 2]], dtype=torch.uint8)
    pred = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1]])
    table = contingency(true, pred, num_true=4, num_pred=2)
    assert table.dtype == torch.float64
    assert table.tolist() == [[[0, 1], [2, 0], [0, 1], [0, 0]], [[0, 0], [0, 0], [1, 3], [0, 0]]]
    with pytest.raises(ValueError, match="true_labels: expected labels 0 to 1, found 0 to 2"):
        contingency(true, pred, num_true=2, num_pred=2)


def test_labels_from_masks():
    masks = torch.zeros(2, 3, 1, 5, dtype=torch.uint8)
    masks[0, 0] = 255
    masks[0, 1, 0, 1:3] = 255
    masks[0, 2, 0, 2:4] = 255  # overlaps entity 1 at pixel 2
    masks[0, 1, 0, 4] = 254  # not 255, so the background keeps the pixel
    assert labels_from_masks(masks)[0].tolist() == [[0, 1, 2, 2, 0]]
    masks[1, 0, 0, :2] = 1
    masks[1, 1, 0, 1:4] = 1
    assert labels_from_masks(masks)[1].tolist() == [[1, 1, 1, 1, 0]]
    assert labels_from_masks(masks).dtype == torch.uint8
    with pytest.raises(ValueError, match=r"at most 255 entities.*found 256"):
        labels_from_masks(torch.zeros(1, 256, 1, 1, dtype=torch.uint8))


def test_hard_labels_take_the_first_of_equal_masks():
    masks = torch.tensor([[0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.2, 0.7]]).view(3, 3, 1, 1)
    assert hard_labels(masks).flatten().tolist() == [1, 0, 2]
    assert hard_labels(masks.view(1, 3, 3, 1, 1)).shape == (1, 3, 1, 1)
    assert (hard_labels(torch.full((2, 7, 9, 9), 1 / 7)) == 0).all()


@settings(max_examples=60, deadline=None)
@given(label_pairs())
def test_matched_iou_equals_the_best_of_all_assignments(labels):
    true, pred = labels
    for ignore_background in (True, False):
        expected = [reference_matched_iou(t.numpy(), p.numpy(), ignore_background) for t, p in zip(true, pred)]
        scores = matched_iou(true, pred, ignore_background=ignore_background)
        assert scores.numpy() == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(label_pairs())
def test_mean_best_overlap_equals_a_loop(labels):
    true, pred = labels
    expected = [reference_best_overlap(t.numpy(), p.numpy()) for t, p in zip(true, pred)]
    assert mean_best_overlap(true, pred).numpy() == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_overlap_scores_by_hand():
    # Objects 2 and 5, no 1, 3 and 4; segment 0 holds object 2 and half the background.
    true = torch.tensor([[0, 0, 2, 2, 5, 5, 5, 5]])
    pred = torch.tensor([[0, 1, 0, 0, 3, 3, 3, 1]])
    assert matched_iou(true, pred, ignore_background=True).item() == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert matched_iou(true, pred, ignore_background=False).item() == pytest.approx((1 / 3 + 2 / 3 + 3 / 4) / 3)
    assert mean_best_overlap(true, pred).item() == pytest.approx((2 / 3 + 3 / 4) / 2)
    # One segment for two objects: the matching may use it once, the best overlap twice.
    one_segment = torch.zeros_like(pred)
    assert matched_iou(true, one_segment, ignore_background=True).item() == pytest.approx(4 / 8 / 2)
    assert mean_best_overlap(true, one_segment).item() == pytest.approx((2 / 8 + 4 / 8) / 2)
    empty = torch.zeros_like(true)
    assert matched_iou(empty, pred, ignore_background=True, undefined=0.5).item() == 0.5
    assert matched_iou(empty, empty, ignore_background=False).item() == 1.0
    assert mean_best_overlap(empty, pred).isnan().all()


@settings(max_examples=50, deadline=None)
@given(label_pairs())
def test_scores_of_one_table_are_the_single_ones(labels):
    true, pred = labels
    scores = segmentation_scores(true, pred)
    expected = {
        "ari": adjusted_rand_index(true, pred, ignore_background=False),
        "fari": foreground_ari(true, pred),
        "miou": matched_iou(true, pred, ignore_background=False),
        "fmiou": matched_iou(true, pred, ignore_background=True),
        "mbo": mean_best_overlap(true, pred),
    }
    assert scores.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(scores[name].nan_to_num(nan=-1.0), values.nan_to_num(nan=-1.0)), name


def test_original_means_count_labels_that_do_not_occur():
    true, pred = torch.tensor([[0, 0, 3, 3], [0, 0, 0, 0]]), torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
    ours, original = (segmentation_scores(true, pred, as_original=value) for value in (False, True))
    assert [float(ours[name][0]) for name in ("miou", "fmiou", "mbo")] == [1, 1, 1]
    assert [float(original[name][0]) for name in ("miou", "fmiou", "mbo")] == pytest.approx([2 / 4, 1 / 3, 1 / 3])
    assert all(ours[name][1].isnan() for name in ("fari", "fmiou", "mbo"))
    assert original["fari"][1] == 1
    assert all(original[name][1].isnan() for name in ("fmiou", "mbo"))


def test_overlapping_instances_change_no_score_of_objects():
    """Pixels that are set apart count as if they were not there, but for scores that count the background."""
    generator = torch.Generator().manual_seed(0)
    true, pred, overlap = (torch.randint(high, (1, 60), generator=generator) for high in (4, 5, 2))
    apart_true, apart_pred = set_overlaps_apart(true, pred, overlap)
    assert apart_true[overlap == 1].unique().tolist() == [0]
    assert apart_pred[overlap == 1].unique().tolist() == [int(pred.max()) + 1]
    assert torch.equal(apart_true[overlap == 0], true[overlap == 0])
    assert torch.equal(apart_pred[overlap == 0], pred[overlap == 0])
    scores = segmentation_scores(true, pred, overlap)
    without = segmentation_scores(true[overlap == 0][None], pred[overlap == 0][None])
    for name in ("fari", "fmiou", "mbo"):
        assert scores[name].item() == pytest.approx(without[name].item()), name
    nowhere = segmentation_scores(true, pred, torch.zeros_like(overlap))
    assert {name: float(value) for name, value in nowhere.items()} == pytest.approx(
        {name: float(value) for name, value in segmentation_scores(true, pred).items()}
    )


def scene(*strips):
    """Labels of a picture 100 pixels wide, where strip i has `strips[i]` rows of label i."""
    return torch.repeat_interleave(torch.arange(len(strips)), torch.tensor(strips)).view(-1, 1).expand(-1, 100)


def test_objects_are_matched_to_slots_wherever_their_presence_flags_stand():
    true = scene(4, 2, 0, 3, 1)
    pred = torch.tensor([2, 3, 0, 1, 4])[true]
    presence = torch.tensor([1.0, 1, 0, 1, 1])
    objects, slots = match_objects_to_slots(true, pred, presence)
    assert (objects.tolist(), slots.tolist()) == ([1, 3, 4], [3, 1, 4])
    # Entity 3 is flagged absent, and a flag without pixels matches nothing.
    objects, slots = match_objects_to_slots(true, pred, torch.tensor([True, True, True, False, True]))
    assert (objects.tolist(), slots.tolist()) == ([1, 4], [3, 4])


def test_small_objects_and_poor_overlaps_are_dropped():
    true = scene(7, 1, 2)
    true = torch.where(torch.arange(100) < 51, true, 0)  # 51 pixels of object 1, 102 of object 2
    objects, slots = match_objects_to_slots(true, true, torch.ones(3))
    assert (objects.tolist(), slots.tolist()) == ([1, 2], [1, 2])
    assert match_objects_to_slots(true, true, torch.ones(3), min_pixels=52)[0].tolist() == [2]
    # Everything in slot 0: object 2 has an IoU of 102/1000 with it, object 1 of 51/1000.
    objects, slots = match_objects_to_slots(true, torch.zeros_like(true), torch.ones(3))
    assert (objects.tolist(), slots.tolist()) == ([2], [0])
    assert match_objects_to_slots(true, torch.zeros_like(true), torch.ones(3), min_iou=0.11)[0].tolist() == []
    with pytest.raises(ValueError, match="true_labels: expected labels 0 to 1, found 0 to 2"):
        match_objects_to_slots(true, true, torch.ones(2))
