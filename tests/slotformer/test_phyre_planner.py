"""Planning in PHYRE: what the classifier is shown, parts of the candidates on disk, what a ranking is worth."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.errors import DataError
from core.metrics.phyre import merge_parts, solved_at_random, solved_within
from core.provenance import Provenance
from slotformer.framework.params import ParamsError
from slotformer.phyre_planning.planner import (
    Candidates,
    check_together,
    original_sequence,
    part_of,
    planned_sequence,
)
from slotformer.phyre_planning.results import PartWriter, collect
from slotformer.phyre_planning.scores import (
    MODEL,
    ORACLE,
    RANDOM,
    evaluate,
    lines_on,
    lines_on_folds,
    mean_over_folds,
    report_on,
    table,
)
from tests.dynamics_runs import small_params as dynamics_params
from tests.planning_runs import SLOTFORMER, savi_params, small_params, untrained_planner

STATUSES = np.array([[-1, 1, 0, -1, 1, -1], [-1, -1, -1, 0, 0, -1], [0, 0, 0, 0, 0, 0], [-1, -1, 1, -1, -1, -1]])


# The models together


def test_the_classifier_sees_the_first_frame_and_what_follows() -> None:
    first, later = torch.randn(2, 1, 3, 4), torch.randn(2, 3, 3, 4)
    assert torch.equal(planned_sequence(first, later)[:, [0, 3]], torch.stack([first[:, 0], later[:, 2]], dim=1))
    original = original_sequence(first, later)[:, [0, 3]]
    assert torch.equal(original, torch.stack([torch.zeros_like(first[:, 0]), later[:, 0]], dim=1))


@pytest.mark.parametrize("as_original", [False, True])
def test_a_planner_is_its_three_models_in_a_row(as_original: bool) -> None:
    planner, image = untrained_planner(as_original), torch.rand(3, 3, 128, 128)
    with torch.no_grad():
        found = planner.answer(image)
        first = planner.savi.track(2 * image[:, None] - 1, lambda name, shape: torch.zeros(shape)).slots
        later = planner.slotformer.rollout(first, 9)
        shown = [torch.zeros_like(first), later[:, :1]] if as_original else [first, later[:, 2:3]]
        expected = planner.classifier.answer(torch.cat(shown, dim=1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.std() > 0


def test_models_of_other_folds_do_not_plan_together() -> None:
    configurations = {
        "params": dynamics_params(SLOTFORMER),
        "task_cls_params": small_params(),
        "savi_params": savi_params(),
    }
    check_together(**configurations)
    configurations["task_cls_params"] = small_params("phyre_fold=2")
    with pytest.raises(ParamsError, match="phyre_fold is 0 in --params, but 2 in --task_cls_params"):
        check_together(**configurations)
    configurations["task_cls_params"] = small_params("readout_dict.num_slots=4")
    with pytest.raises(ParamsError, match="num_slots is 3 in --params, but 4 in --task_cls_params"):
        check_together(**configurations)


# Parts


@pytest.mark.parametrize(("count", "total"), [(240, 2), (17, 5), (3, 4)])
def test_parts_cover_all_candidates_once(count: int, total: int) -> None:
    parts = [part_of(count, split, total) for split in range(total)]
    assert [number for part in parts for number in part] == list(range(count))
    assert {len(part) for part in parts[:-1]} == {count // total}
    assert part_of(count, -1, total) == range(count)


def test_invalid_actions_are_no_candidates() -> None:
    candidates = Candidates(["a", "b", "c", "d"], np.zeros((6, 3)), STATUSES)
    assert candidates.valid(range(2, 12)).tolist() == [3, 4, 5, 6, 7, 8, 11]
    assert candidates.valid(range(12, 18)).tolist() == []


def write_part(folder: Path, split: int, total: int, logits: np.ndarray) -> None:
    """A part in two halves, by a writer each, as if the first had been killed."""
    part = part_of(STATUSES.size, split, total)
    valid = Candidates(["a", "b", "c", "d"], np.zeros((6, 3)), STATUSES).valid(part)
    first, second = (PartWriter(folder, split, part, STATUSES) for _ in range(2))
    first.begin()
    if len(valid):
        first.add(valid[:1], logits.flat[valid[:1]].astype(np.float32))
    first._lock.close()
    second.begin()
    assert not second.is_done()
    missing = np.setdiff1d(valid, second.numbers())
    if len(missing):
        second.add(missing, logits.flat[missing].astype(np.float32))
    second.finish()
    assert second.is_done()


def test_parts_of_any_size_are_put_together(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=STATUSES.shape).astype(np.float32).astype(np.float64)
    for split in range(3):
        write_part(tmp_path, split, 3, logits)
    found = collect(tmp_path)
    is_valid = STATUSES != 0
    np.testing.assert_array_equal(found["gt"], STATUSES)
    np.testing.assert_array_equal(found["logit"], np.where(is_valid, logits, -np.inf))
    np.testing.assert_allclose(found["conf"], np.where(is_valid, 1 / (1 + np.exp(-logits)), -1))
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{name}-{split}.npy" for name in ("pred_conf", "pred_logit", "gt_status") for split in range(3)),
        *("all_conf.npy", "all_logit.npy", "all_gt.npy"),
    }
    for kind in ("pred_conf", "pred_logit", "gt_status"):
        (tmp_path / f"{kind}-1.npy").unlink()
    with pytest.raises(
        DataError, match=r"8 of 24 actions are in none of the 2 parts, first task 1, action 2\. Run the"
    ):
        collect(tmp_path)
    write_part(tmp_path, -1, 3, logits)
    np.testing.assert_array_equal(collect(tmp_path)["logit"], found["logit"])


def test_parts_of_the_original_are_ranked_by_their_confidence(tmp_path: Path) -> None:
    confidences = np.where(STATUSES != 0, np.random.default_rng(1).random(STATUSES.shape), -1.0)
    confidences[0, 1] = 1.0
    np.save(tmp_path / "pred_conf--1.npy", confidences)
    np.save(tmp_path / "gt_status--1.npy", STATUSES.astype(np.float64))
    found = collect(tmp_path)
    np.testing.assert_array_equal(
        solved_within(found["logit"], found["gt"]), solved_within(confidences, STATUSES.astype(float))
    )
    assert "world: not known" in "\n".join(lines_on(report_on(tmp_path)))


def test_confidences_that_round_to_one_are_told_apart(tmp_path: Path) -> None:
    logits = np.where(STATUSES == 1, 41.0, 40.0)
    write_part(tmp_path, -1, 1, logits)
    found = collect(tmp_path)
    assert (found["conf"][STATUSES != 0] == 1).all()
    assert evaluate(found)["AUCCESS"][MODEL] == evaluate(found)["AUCCESS"][ORACLE]


def test_a_part_in_work_and_another_total_are_refused(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, 0, range(12), STATUSES)
    writer.begin()
    with pytest.raises(DataError, match="part-0: another process computes this part"):
        PartWriter(tmp_path, 0, range(12), STATUSES).begin()
    writer._lock.close()
    write_part(tmp_path, 0, 2, np.zeros(STATUSES.shape))
    with pytest.raises(
        DataError, match=r"gt_status-0.npy: another part, perhaps of another --total_split, than actions"
    ):
        PartWriter(tmp_path, 0, range(6), STATUSES).is_done()
    np.save(tmp_path / "gt_status-1.npy", np.zeros((2, 2)))
    np.save(tmp_path / "pred_conf-1.npy", np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"parts of \[2, 2\] and \[4, 6\] actions"):
        collect(tmp_path)
    (tmp_path / "pred_logit-0.npy").write_bytes(b"half")
    with pytest.raises(DataError, match=r"pred_logit-0.npy: cannot be read .* start its part again"):
        collect(tmp_path)


# What a ranking is worth


def scores(logits: np.ndarray, statuses: np.ndarray) -> dict[str, np.ndarray]:
    return {"conf": 1 / (1 + np.exp(-logits)), "logit": logits.astype(float), "gt": statuses.astype(float)}


def test_auccess_by_hand() -> None:
    statuses = np.array([[-1, 1, 0, -1], [-1, -1, 1, -1]])
    report = evaluate(scores(np.array([[0.3, 0.2, 9.0, 0.1], [4.0, 3.0, 2.0, 1.0]]), statuses))
    # The first task is solved by the second attempt, the other by the third.
    expected = (math.log(101) - math.log(2) + math.log(101) - math.log(3)) / 2 / math.log(101)
    assert report["AUCCESS"][MODEL] == pytest.approx(100 * expected)
    assert report["success_rate"][MODEL][:4] == [0, 0.5, 1, 1]
    assert report["AUCCESS"][ORACLE] == 100
    # At random: 1/3, 2/3, 1 for three valid actions, 1/4, 2/4, 3/4, 1 for four.
    assert report["success_rate"][RANDOM][:4] == pytest.approx([7 / 24, 14 / 24, 21 / 24, 1])
    assert (report["num_valid"], report["num_solving"], report["num_tasks"], report["num_actions"]) == (7, 2, 2, 4)
    gain = report["AUCCESS"][MODEL] - report["AUCCESS"][RANDOM]
    assert report["over_random"]["mean"] == pytest.approx(gain)
    each = [
        evaluate(scores(np.array([row]), statuses[[task]]))["over_random"]
        for task, row in enumerate([[0.3, 0.2, 9.0, 0.1], [4.0, 3.0, 2.0, 1.0]])
    ]
    error = abs(each[0]["mean"] - each[1]["mean"]) / 2
    assert report["over_random"]["standard_error"] == pytest.approx(error)
    assert each[0]["standard_error"] is None
    lines = table(report)
    assert lines[0].split() == ["success@", "1", "2", "5", "10", "20", "50", "100", "AUCCESS"]
    assert lines[1].split()[:4] == [MODEL, "0.00", "50.00", "100.00"]


def test_auccess_is_its_definition() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(7, 150))
    statuses = rng.choice([-1, 0, 1], (7, 150), p=[0.85, 0.1, 0.05])
    statuses[0] = np.where(statuses[0] == 1, -1, statuses[0])
    total = 0.0
    for own, status in zip(logits, statuses):
        tried = [status[action] for action in np.argsort(-own) if status[action] != 0]
        for attempts in range(1, 101):
            total += (math.log(attempts + 1) - math.log(attempts)) * (1 in tried[:attempts]) / 7
    report = evaluate(scores(logits, statuses))
    assert report["AUCCESS"][MODEL] == pytest.approx(100 * total / math.log(101))
    assert report["AUCCESS"][ORACLE] == pytest.approx(100 * np.mean([1 in status for status in statuses]))
    assert report["AUCCESS"][RANDOM] < report["AUCCESS"][ORACLE]


def test_random_orders_are_all_orders() -> None:
    orders = np.array(list(itertools.permutations(range(6))), float)
    for task in STATUSES:
        repeated = np.repeat(task[None], len(orders), axis=0)
        expected = solved_within(orders, repeated, attempts=8).mean(axis=0)
        np.testing.assert_allclose(solved_at_random(task[None], attempts=8)[0], expected, atol=1e-12)


def test_random_orders_of_many_actions() -> None:
    statuses = np.where(np.arange(5000) < 50, 1, -1)[None]
    found = solved_at_random(statuses)[0]
    np.testing.assert_allclose(found[0], 0.01)
    np.testing.assert_allclose(found[99], 1 - math.comb(4950, 100) / math.comb(5000, 100))


def test_missing_parts_are_named() -> None:
    half = np.full(STATUSES.shape, -100.0)
    half[:2] = STATUSES[:2]
    with pytest.raises(ValueError, match="12 of 24 actions are in none of the 1 parts"):
        merge_parts([(half, half)])


# Folds


def write_fold(folder: Path, fold: int, **origin: object) -> Path:
    logits = np.random.default_rng(fold).normal(size=STATUSES.shape)
    made_by = {"source": "a world", "as_original": False, "configs": {"params": {"phyre_fold": fold}}, **origin}
    Provenance(made_by, {"is_phyre": False}).claim(folder)
    write_part(folder, -1, 1, logits)
    return folder


def test_folds_are_averaged(tmp_path: Path) -> None:
    reports = [report_on(write_fold(tmp_path / str(fold), fold)) for fold in range(3)]
    mean = mean_over_folds(reports)
    values = [report["AUCCESS"][MODEL] for report in reports]
    assert mean["AUCCESS"][MODEL] == pytest.approx(np.mean(values))
    assert mean["std"][MODEL] == pytest.approx(np.std(values, ddof=1))
    assert mean["fold"] == [0, 1, 2]
    lines = lines_on_folds(json.loads(json.dumps(mean)))
    assert lines[0].startswith("world: a world. THIS IS NOT PHYRE")
    assert lines[-1] == f"AUCCESS = {np.mean(values):.2f}"
    reports.append(report_on(write_fold(tmp_path / "other", 3, as_original=True)))
    with pytest.raises(DataError, match="folders of as_original False and True; expected folds that were planned in"):
        mean_over_folds(reports)
