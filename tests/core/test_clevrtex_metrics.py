"""The ClevrTex statistics against scikit-learn and against cases small enough to count."""

import pytest
import torch
from sklearn.metrics import adjusted_rand_score, jaccard_score

from core.metrics.clevrtex import STATISTICS, clevrtex_statistics


def one_hot(labels: torch.Tensor, num_slots: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels.long(), num_slots).movedim(-1, 1).float()


def random_labels(count: int = 3, num_labels: int = 4, side: int = 12) -> torch.Tensor:
    return torch.randint(num_labels, (count, side, side), generator=torch.Generator().manual_seed(0))


def images(count: int = 3, side: int = 12) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


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
    assert found["DICE"] == pytest.approx((6 / 7 + 4 / 7) / 3)
    assert found["DICE_FG"] == pytest.approx(4 / 7 / 2)


def test_adjusted_rand_index_is_that_of_scikit_learn():
    truth = random_labels()
    masks = torch.rand(3, 5, 12, 12, generator=torch.Generator().manual_seed(2))
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


def test_a_picture_without_objects():
    truth = torch.zeros(1, 6, 6, dtype=torch.long)
    found = clevrtex_statistics(images(1, 6), one_hot(truth, 3), images(1, 6), truth)
    assert float(found["ARI_FG"]) == 1
    assert float(found["mIoU"]) == 1
    assert found["mIoU_fg"].isnan().all()


def test_results_do_not_depend_on_the_batch():
    truth, masks = random_labels(), torch.rand(3, 5, 12, 12, generator=torch.Generator().manual_seed(4))
    together = clevrtex_statistics(images(), masks, images().flip(0), truth)
    for n in range(3):
        part = slice(n, n + 1)
        alone = clevrtex_statistics(images()[part], masks[part], images().flip(0)[part], truth[part])
        for name in STATISTICS:
            torch.testing.assert_close(together[name][part], alone[name])
