"""Attempts and AUCCESS of PHYRE, on cases that can be counted by hand."""

import math

import numpy as np
import pytest

from core.metrics.phyre import auccess, auccess_weights, merge_parts, solved_in_log, solved_within


def test_the_most_confident_valid_action_comes_first():
    confidences = np.array([[0.1, 0.9, 0.5, 0.7], [0.1, 0.2, 0.3, 0.4]])
    statuses = np.array([[1, 0, -1, -1], [-1, -1, -1, 0]])
    solved = solved_within(confidences, statuses, attempts=5)
    assert solved.tolist() == [[False, False, True, True, True], [False] * 5]


def test_equal_confidences_are_tried_in_the_order_of_their_numbers():
    solved = solved_within(np.ones((1, 300)), np.where(np.arange(300) == 41, 1, -1)[None])
    assert int(solved[0].argmax()) == 41
    assert solved.shape == (1, 100)


def test_later_attempts_do_not_count():
    statuses = np.where(np.arange(150) == 100, 1, -1)[None]
    assert not solved_within(-np.arange(150.0)[None], statuses).any()
    statuses[0, 0] = 0  # an invalid action is no attempt
    assert solved_within(-np.arange(150.0)[None], statuses)[0].tolist() == [False] * 99 + [True]


def test_auccess_of_one_task():
    assert auccess_weights().sum() == pytest.approx(math.log(101))
    at_once, late = np.ones((1, 100), bool), np.arange(100)[None] >= 9
    assert auccess(at_once) == 1
    assert auccess(late) == pytest.approx((math.log(101) - math.log(10)) / math.log(101))
    assert auccess(np.concatenate((at_once, late))) == pytest.approx((1 + auccess(late)) / 2)
    assert auccess(late, attempts=9) == 0


def test_a_log_counts_as_the_scores_do():
    rng = np.random.default_rng(0)
    statuses = rng.choice([-1, 0, 1], (5, 40), p=[0.8, 0.15, 0.05])
    solved = solved_within(-np.arange(40.0)[None].repeat(5, axis=0), statuses, attempts=30)
    log = np.array([(task, statuses[task, number]) for number in range(40) for task in range(5)])
    np.testing.assert_array_equal(solved_in_log(log, num_tasks=5, attempts=30), solved)


def test_parts_are_merged_and_gaps_named():
    confidences, statuses = np.arange(6.0).reshape(2, 3), np.array([[1, -1, 0], [0, 1, -1]])
    parts = []
    for part in range(2):
        is_here = np.arange(6).reshape(2, 3) % 2 == part
        parts.append((np.where(is_here, confidences, -100), np.where(is_here, statuses, -100)))
    merged = merge_parts(parts)
    np.testing.assert_array_equal(merged[0], confidences)
    np.testing.assert_array_equal(merged[1], statuses)
    with pytest.raises(ValueError, match=r"3 of 6 actions are in none of the 1 parts, first task 0, action 1\."):
        merge_parts(parts[:1])
