"""The ClevrTex evaluator against scikit-learn, exhaustive search and cases small enough to count."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, jaccard_score

from core.metrics.clevrtex import STATISTICS, ClevrTexEvaluator, bootstrap_interval, clevrtex_statistics
from core.metrics.segmentation import align_labels, with_background
from core.types import Decomposition


def one_hot(labels: torch.Tensor, num_slots: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels.long(), num_slots).movedim(-1, 1).float()


def random_labels(count: int = 3, num_labels: int = 4, side: int = 12) -> torch.Tensor:
    return torch.randint(num_labels, (count, side, side), generator=torch.Generator().manual_seed(0))


def random_masks(count: int = 3, num_slots: int = 5, side: int = 12) -> torch.Tensor:
    return torch.rand(count, num_slots, side, side, generator=torch.Generator().manual_seed(2)).softmax(dim=1)


def images(count: int = 3, side: int = 12) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def evaluate(masks: torch.Tensor, truth: torch.Tensor, metadata: list | None = None, **settings) -> ClevrTexEvaluator:
    """One batch; the prediction is 0.5 everywhere, the picture 0.25."""
    evaluator = ClevrTexEvaluator(**settings)
    picture = torch.full((len(truth), 3, *truth.shape[1:]), 0.25)
    evaluator.update(Decomposition(recon=picture * 2, masks=masks), picture, truth, metadata)
    return evaluator


def mean_of(evaluator: ClevrTexEvaluator, name: str) -> float | None:
    return evaluator.results()["statistics"][name]["mean"]


def test_copied_masks_in_another_order_are_perfect():
    truth = random_labels()
    masks = one_hot(truth, 6)[:, [5, 3, 0, 2, 4, 1]]
    found = clevrtex_statistics(images(), masks, images(), truth)
    assert tuple(found) == STATISTICS
    for name in STATISTICS:
        assert found[name].tolist() == pytest.approx([0.0 if name == "MSE" else 1.0] * 3), name


def test_counted_by_hand():
    truth = torch.tensor([[[0, 0, 0, 0], [1, 1, 2, 2]]])
    predicted = torch.tensor([[[0, 0, 0, 1], [1, 1, 1, 1]]])
    black, grey = torch.zeros(1, 3, 2, 4), torch.full((1, 3, 2, 4), 0.5)
    found = {
        name: float(value) for name, value in clevrtex_statistics(grey, one_hot(predicted, 2), black, truth).items()
    }
    # Slot 0 meets the background (IoU 3/4), slot 1 object 1 or 2 (IoU 2/5); the third true slot is met by nothing.
    assert found["MSE"] == pytest.approx(24 * 0.25)
    assert found["acc"] == 0
    assert found["mIoU"] == pytest.approx((3 / 4 + 2 / 5) / 3)
    assert found["mIoU_fg"] == pytest.approx(2 / 5 / 2)
    assert found["mIoU_gt"] == found["mIoU"]
    assert found["mSC"] == pytest.approx((4 * 3 / 4 + 2 * 2 / 5 + 2 * 2 / 5) / 8)
    assert found["DICE"] == pytest.approx((6 / 7 + 4 / 7) / 3)
    assert found["DICE_FG"] == pytest.approx(4 / 7 / 2)


def reference_statistics(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """One image, by trying every matching and by loops over labels."""
    num_slots = max(truth.max(), predicted.max()) + 1
    sets = [[labels == slot for slot in range(num_slots)] for labels in (truth, predicted)]
    iou = np.array([[(t & p).sum() / max((t | p).sum(), 1) for p in sets[1]] for t in sets[0]])
    orders = itertools.permutations(range(num_slots))
    order = max(orders, key=lambda order: sum(iou[slot, match] for slot, match in enumerate(order)))
    pairs = [
        (iou[slot, match], 2 * (sets[0][slot] & sets[1][match]).sum() / (sets[0][slot].sum() + sets[1][match].sum()))
        for slot, match in enumerate(order)
        if sets[0][slot].any() or sets[1][match].any()
    ]
    objects = pairs[1:]  # the background is there in these tests
    return {
        "mIoU": np.mean([pair[0] for pair in pairs]),
        "mIoU_fg": np.mean([pair[0] for pair in objects]),
        "mIoU_gt": sum(pair[0] for pair in pairs) / len(np.unique(truth)),
        "mSC": np.average(iou.max(axis=1), weights=[mask.sum() for mask in sets[0]]),
        "DICE": np.mean([pair[1] for pair in pairs]),
        "DICE_FG": np.mean([pair[1] for pair in objects]),
        "acc": float(len(np.unique(truth)) == len(np.unique(predicted))),
    }


@pytest.mark.parametrize(("num_labels", "num_slots"), [(4, 5), (5, 3), (2, 5)])
def test_every_matching_is_tried(num_labels, num_slots):
    truth, masks = random_labels(4, num_labels, side=7), random_masks(4, num_slots, side=7)
    found = clevrtex_statistics(images(4, 7), masks, images(4, 7), truth)
    for n, (labels, predicted) in enumerate(zip(truth.numpy(), masks.argmax(dim=1).numpy())):
        for name, value in reference_statistics(labels, predicted).items():
            assert float(found[name][n]) == pytest.approx(value), name


def test_adjusted_rand_index_is_that_of_scikit_learn():
    truth, masks = random_labels(), random_masks()
    found = clevrtex_statistics(images(), masks, images(), truth)
    for n, (labels, predicted) in enumerate(zip(truth, masks.argmax(dim=1))):
        of_objects = labels > 0
        assert float(found["ARI"][n]) == pytest.approx(adjusted_rand_score(labels.flatten(), predicted.flatten()))
        wanted = adjusted_rand_score(labels[of_objects], predicted[of_objects])
        assert float(found["ARI_FG"][n]) == pytest.approx(wanted)


def test_iou_is_that_of_scikit_learn_where_the_matching_is_plain():
    truth = random_labels(1)
    noisy = torch.where(torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(3)) < 0.8, truth, 0)
    found = clevrtex_statistics(images(1), one_hot(noisy, 4), images(1), truth)
    wanted = jaccard_score(truth.flatten(), noisy.flatten(), average=None)
    assert float(found["mIoU"]) == pytest.approx(wanted.mean())
    assert float(found["mIoU_fg"]) == pytest.approx(wanted[1:].mean())


def test_labels_are_aligned_as_scipy_matches_them():
    truth, predicted = random_labels(5, 4), random_masks(5, 6).argmax(dim=1)
    alignment = align_labels(truth, predicted, 6)
    for n in range(5):
        counts = torch.stack([((truth[n] == t) & (predicted[n] == p)).sum() for t in range(6) for p in range(6)])
        counts = counts.view(6, 6).numpy()
        union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True) - counts
        _, order = linear_sum_assignment(counts / np.maximum(union, 1), maximize=True)
        assert alignment.order[n].tolist() == order.tolist()
        assert alignment.table[n].tolist() == counts[:, order].tolist()
        for label, slot in enumerate(order):
            assert torch.equal(alignment.labels[n] == label, predicted[n] == slot)


def test_a_picture_without_objects():
    truth = torch.zeros(1, 6, 6, dtype=torch.long)
    found = clevrtex_statistics(images(1, 6), one_hot(truth, 3), images(1, 6), truth)
    assert float(found["ARI_FG"]) == 1
    assert float(found["mIoU"]) == float(found["mSC"]) == 1
    assert found["mIoU_fg"].isnan().all()


def test_a_picture_without_objects_is_left_out_of_the_means_over_objects():
    truth = random_labels(2)
    truth[1] = 0
    evaluator = evaluate(one_hot(truth, 5), truth)
    found = evaluator.results()["statistics"]
    for name in STATISTICS[1:]:
        of_objects = name in ("mIoU_fg", "DICE_FG")
        assert (found[name]["mean"], found[name]["count"]) == (1.0, 1 if of_objects else 2), name
    assert evaluator.values()["mIoU_fg"].isnan().tolist() == [False, True]
    alone = evaluate(one_hot(truth, 5)[1:], truth[1:]).results()["statistics"]["mIoU_fg"]
    assert alone == {"mean": None, "std": None, "count": 0, "interval": [None, None]}


def test_a_picture_without_background():
    truth = torch.tensor([[[1, 1, 2, 2]]])
    masks = one_hot(truth, 3)
    assert mean_of(evaluate(masks, truth), "mIoU_fg") == 1
    assert mean_of(evaluate(masks, truth, as_original=True), "mIoU_fg_original") == 2  # it divides by 2 slots less one


def test_results_do_not_depend_on_the_batch():
    truth, masks = random_labels(), random_masks()
    together = clevrtex_statistics(images(), masks, images().flip(0), truth)
    for n in range(3):
        part = slice(n, n + 1)
        alone = clevrtex_statistics(images()[part], masks[part], images().flip(0)[part], truth[part])
        for name in STATISTICS:
            torch.testing.assert_close(together[name][part], alone[name])


def test_a_reconstruction_that_is_not_a_number_is_not_left_out():
    truth = random_labels(2)
    picture = images(2)
    evaluator = ClevrTexEvaluator()
    broken = picture.clone()
    broken[1] = math.nan
    evaluator.update(Decomposition(recon=broken, masks=one_hot(truth, 4)), picture, truth)
    assert mean_of(evaluator, "MSE") is None
    assert mean_of(evaluator, "mIoU") == 1


def test_original_covering():
    truth = torch.tensor([[[0, 0, 1, 2], [0, 0, 1, 2]], [[0, 0, 1, 1], [0, 0, 0, 1]]])
    masks = one_hot(torch.tensor([[[0, 0, 0, 2], [0, 1, 1, 2]], [[0, 0, 0, 1], [0, 0, 0, 1]]]), 3)
    # Without label 2 of the first image (4 pixels of IoU 3/5, 2 of IoU 1/3) and label 1 of the second (5 of 5/6).
    assert evaluate(masks, truth, as_original=True).values()["mSC_original"].tolist() == pytest.approx(
        [(4 * 3 / 5 + 2 * 1 / 3) / 6, 5 / 6]
    )
    # An image alone: of its first row 0 0 1 2, predicted as 0 0 0 2, without label 2.
    alone = evaluate(masks[:1], truth[:1], as_original=True)
    assert alone.values()["mSC_original"].tolist() == pytest.approx([(2 * 2 / 3 + 1 * 1 / 3) / 3])
    assert "mSC" not in alone.results()["statistics"]
    right = [(4 * 3 / 5 + 2 * 1 / 3 + 2) / 8, (5 * 5 / 6 + 3 * 2 / 3) / 8]
    assert evaluate(masks, truth).values()["mSC"].tolist() == pytest.approx(right)
    assert mean_of(evaluate(masks[:1], truth[:1]), "mSC") == pytest.approx(right[0])


def test_an_undefined_value_leaves_the_original_without_a_mean():
    truth = random_labels(2)
    truth[1] = 0
    found = evaluate(one_hot(truth, 5), truth, as_original=True).results()
    for name in ("mSC_original", "mIoU_fg_original", "DICE_FG_original"):
        assert found["statistics"][name]["mean"] is None
    assert found["statistics"]["mIoU"]["mean"] == 1
    assert "without the largest label" in found["protocol"]
    json.dumps(found, allow_nan=False)


def test_masks_without_background():
    truth = random_labels()
    soft = 0.9 * one_hot(truth, 4)
    assert torch.equal(with_background(soft[:, 1:])[:, 1:], soft[:, 1:])
    evaluator = evaluate(soft[:, 1:], truth, masks_have_background=False)
    assert mean_of(evaluator, "mIoU") == mean_of(evaluator, "acc") == 1
    assert mean_of(evaluate(soft[:, 1:], truth), "acc") == 0


def scene(*objects: dict, ground: str = "sand") -> dict:
    return {"ground_material": ground, "objects": [{"rotation": 0.5} | known for known in objects]}


def test_breakdown_by_material_shape_and_size():
    truth = torch.tensor([[[0, 0, 1, 1], [0, 0, 2, 2]], [[0, 0, 0, 0], [0, 0, 0, 1]]])
    predicted = torch.tensor([[[0, 0, 1, 1], [0, 0, 0, 2]], [[0, 0, 0, 0], [0, 0, 1, 1]]])
    ball, cube = {"material": "moss", "shape": "ball", "size": "l"}, {"material": "moss", "shape": "cube", "size": "s"}
    found = evaluate(one_hot(predicted, 3), truth, [scene(ball, cube, cube), scene(ball, ground="brick")]).results()
    assert found["statistics"]["obj_iou"]["count"] == 3  # the third object of the first scene is hidden
    assert found["statistics"]["obj_iou"]["mean"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert found["statistics"]["obj_mse"]["mean"] == pytest.approx(5 / 3 * 3 * 0.0625)
    assert found["statistics"]["ground_iou"]["mean"] == pytest.approx((4 / 5 + 6 / 7) / 2)
    of_shapes = found["by_tag"]["obj_iou"]["shape"]
    assert of_shapes == {
        "cube": {"mean": 0.5, "std": 0.0, "count": 1},
        "ball": {"mean": 0.75, "std": 0.25, "count": 2},
    }
    assert list(of_shapes) == ["cube", "ball"]
    assert found["by_tag"]["obj_mse"]["size"]["l"] == {
        "mean": pytest.approx(1.5 * 3 * 0.0625),
        "std": 0.09375,
        "count": 2,
    }
    assert set(found["by_tag"]["obj_iou"]) == {"material", "shape", "size"}
    assert list(found["by_tag"]["ground_iou"]["ground_material"]) == ["sand", "brick"]
    assert found["by_tag"]["ground_mse"]["ground_material"]["brick"]["mean"] == pytest.approx(7 * 3 * 0.0625)


def test_colours_are_told_apart_where_there_are_any():
    truth = torch.tensor([[[0, 1, 2]]])
    metadata = [scene({"shape": "ball", "color": "red"}, {"shape": "ball", "color": "blue"})]
    found = evaluate(one_hot(truth, 3), truth, metadata).results()["by_tag"]["obj_iou"]
    assert {colour: of["count"] for colour, of in found["color"].items()} == {"red": 1, "blue": 1}


def test_scenes_without_objects():
    truth = torch.zeros(2, 3, 3, dtype=torch.long)
    found = evaluate(one_hot(truth, 2), truth, [scene(), scene()]).results()
    assert found["statistics"]["ground_iou"]["mean"] == 1
    assert found["statistics"]["obj_iou"] == {"mean": None, "std": None, "count": 0}
    assert found["by_tag"]["obj_iou"] == {}


def test_merged_parts_are_the_whole():
    truth, masks = random_labels(6), random_masks(6)
    ball, cube = {"material": "moss", "shape": "ball"}, {"material": "tin", "shape": "cube"}
    metadata = [scene(ball, cube), scene(ball), scene(cube, ground="brick")] * 2
    whole = evaluate(masks, truth, metadata)
    merged = ClevrTexEvaluator()
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        merged.merge(evaluate(masks[part], truth[part], metadata[part]).state())
    assert json.dumps(merged.results(), allow_nan=False) == json.dumps(whole.results(), allow_nan=False)
    for name, values in whole.values().items():
        assert torch.equal(merged.values()[name], values)
    with pytest.raises(ValueError, match=r"'as_original': False.*'as_original': True.* cannot be merged"):
        merged.merge(ClevrTexEvaluator(as_original=True).state())


def test_an_evaluator_without_images():
    assert ClevrTexEvaluator().results()["num_images"] == 0
    merged = evaluate(random_masks(), random_labels())
    merged.merge(ClevrTexEvaluator().state())
    assert merged.results()["num_images"] == 3


def test_bootstrap_interval_is_that_of_the_normal_distribution():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = bootstrap_interval(values)
    error = float(values.std()) / 2000**0.5
    assert (low, high) == pytest.approx(
        (float(values.mean()) - 1.96 * error, float(values.mean()) + 1.96 * error), abs=0.2 * error
    )
    assert bootstrap_interval(torch.ones(5, dtype=torch.float64)) == (1.0, 1.0)


def test_what_does_not_fit_is_refused():
    truth = random_labels()
    with pytest.raises(ValueError, match="metadata: expected one entry per image, 3, found 1"):
        evaluate(one_hot(truth, 4), truth, [scene()])
    large = Decomposition(recon=images(side=24), masks=random_masks(side=24))
    with pytest.raises(ValueError, match=r"one shape, found \(3, 3, 24, 24\) and \(3, 3, 12, 12\)"):
        ClevrTexEvaluator().update(large, images(), truth)
    video = Decomposition(recon=images()[None], masks=one_hot(truth, 4)[None])
    with pytest.raises(ValueError, match="takes images, found a video"):
        ClevrTexEvaluator().update(video, images(), truth)
