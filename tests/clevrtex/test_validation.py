"""Scalars of training and validation, against plain loops over one-hot masks."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from clevrtex.framework.validation import (
    DIFFERENT_IN_ORIGINAL,
    MONITOR,
    mean_over_images,
    training_scalars,
    validation_scalars,
)
from core.metrics.clevrtex import ClevrTexEvaluator
from core.types import Decomposition

NAMES = ("mse", "bg_mse", "slot_mse", "miou", "dice", "ari", "ari_fg", "ari2", "ari2_fg", "acc", "cnt")


def sample(num_slots: int = 5, num_labels: int = 4, side: int = 10, count: int = 4) -> tuple[Decomposition, dict]:
    generator = torch.Generator().manual_seed(0)
    image, recon = torch.rand(2, count, 3, side, side, generator=generator)
    labels = torch.randint(num_labels, (count, side, side), generator=generator).to(torch.uint8)
    masks = (4 * torch.rand(count, num_slots, side, side, generator=generator)).softmax(dim=1)
    visible = torch.nn.functional.one_hot(labels.long().flatten(1), num_labels + 1).any(dim=1)
    return Decomposition(recon=recon, masks=masks), {"image": image, "mask": labels, "visible": visible}


def reference(prediction: Decomposition, batch: dict, n: int, as_original: bool, present: np.ndarray) -> dict:
    """One image, with one-hot masks of as many slots as either side has; `present` says which slots are there."""
    num_slots = max(prediction.num_slots, batch["visible"].shape[1])
    soft, labels = prediction.masks[n].numpy(), batch["mask"][n].numpy()
    predicted = soft.argmax(axis=0)
    hard, truth = (np.stack([image == slot for slot in range(num_slots)]) for image in (predicted, labels))
    scores, dice = np.zeros((2, num_slots, num_slots))
    for t in range(num_slots):
        for p in range(num_slots):
            both, areas = (truth[t] & hard[p]).sum(), truth[t].sum() + hard[p].sum()
            if truth[t].any() and hard[p].any():
                scores[t, p] = (both + 0.01) / (areas + 0.01) if as_original else both / (areas - both)
                dice[t, p] = 2 * both / areas
    _, order = linear_sum_assignment(scores, maximize=True)
    hard, slots = hard[order], np.arange(num_slots)
    if as_original:
        present = np.pad(present, (0, num_slots - len(present)))[order]
        visible = np.pad(batch["visible"][n].numpy(), (0, num_slots - batch["visible"].shape[1]))
        pairs = (present | visible).sum() - 1
    else:
        pairs = (hard | truth)[1:].any(axis=(1, 2)).sum()
    recon, image = (picture[n].double().numpy() for picture in (prediction.recon, batch["image"]))
    errors = [((recon * hard[slot] - image * truth[slot]) ** 2).sum() for slot in slots]
    count = (soft > 0.5).any(axis=(1, 2)).sum() - 1
    ari = adjusted_rand_score(labels.flatten(), predicted.flatten())
    foreground = labels > 0
    ari_fg = adjusted_rand_score(labels[foreground], predicted[foreground]) if foreground.any() else 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "mse": ((recon - image) ** 2).sum(),
            "bg_mse": errors[0],
            "slot_mse": np.float64(sum(errors[1:])) / pairs,
            "miou": scores[slots, order][1:].sum() / pairs,
            "dice": dice[slots, order][1:].sum() / pairs,
            "ari": ari,
            "ari_fg": ari_fg,
            "ari2": ari,
            "ari2_fg": ari_fg,
            "acc": float(count == truth.any(axis=(1, 2)).sum() - 1),
            "cnt": float(count),
        }


@pytest.mark.parametrize("as_original", [False, True])
@pytest.mark.parametrize(("num_slots", "num_labels"), [(5, 4), (3, 6), (7, 2)])
def test_scalars_are_those_of_plain_loops(num_slots, num_labels, as_original):
    prediction, batch = sample(num_slots, num_labels)
    found = validation_scalars(prediction, batch, as_original=as_original)
    found = {name.removesuffix("_original"): values for name, values in found.items()}
    assert tuple(found) == NAMES
    for n in range(len(prediction)):
        for name, value in reference(prediction, batch, n, as_original, np.ones(num_slots, bool)).items():
            assert float(found[name][n]) == pytest.approx(value, rel=1e-6), name


def test_original_counts_the_slots_that_are_present():
    prediction, batch = sample()
    presence = torch.tensor([[1.0, 0.0, 0.6, 0.4]]).expand(4, 4)  # of the slots but the background
    prediction.extras.update(presence=presence, counts=torch.tensor([3.0, 2.0, 3.0, 1.0]))
    found = validation_scalars(prediction, batch, as_original=True)
    for n in range(4):
        wanted = reference(prediction, batch, n, True, np.array([True, True, False, True, False]))
        for name in ("miou", "dice", "slot_mse", "bg_mse"):
            assert float(found[f"{name}_original"][n]) == pytest.approx(wanted[name], rel=1e-6), name
    assert found["cnt"].tolist() == [3, 2, 3, 1]
    assert found["acc"].tolist() == [1, 0, 1, 0]  # three objects in every picture


def test_masks_of_objects_alone_say_the_same():
    prediction, batch = sample()
    presence = torch.tensor([[1.0, 0.0, 1.0, 0.0]]).expand(4, 4)
    whole = Decomposition(recon=prediction.recon, masks=prediction.masks, extras={"presence": presence})
    objects = Decomposition(recon=prediction.recon, masks=prediction.masks[:, 1:], extras={"presence": presence})
    for as_original in (False, True):
        found = validation_scalars(objects, batch, masks_have_background=False, as_original=as_original)
        for name, values in validation_scalars(whole, batch, as_original=as_original).items():
            torch.testing.assert_close(found[name], values)


def test_perfect_prediction():
    _, batch = sample(num_labels=4)
    masks = torch.nn.functional.one_hot(batch["mask"].long(), 11).movedim(-1, 1).float()[:, torch.randperm(11)]
    perfect = Decomposition(recon=batch["image"], masks=masks)
    found = mean_over_images([validation_scalars(perfect, batch)])
    assert found == pytest.approx({name: 0.0 if "mse" in name else 3.0 if name == "cnt" else 1.0 for name in NAMES})
    original = mean_over_images([validation_scalars(perfect, batch, as_original=True)])
    # Half of the Jaccard index, and all eleven slots count.
    assert original["miou_original"] == pytest.approx(3 * 0.5 / 10, rel=1e-3)
    assert original["dice_original"] == pytest.approx(0.3)
    assert {name for name in original if "original" in name} == {f"{name}_original" for name in DIFFERENT_IN_ORIGINAL}


def test_overlap_is_that_of_the_evaluator():
    prediction, batch = sample()
    found = mean_over_images([validation_scalars(prediction, batch)])
    evaluator = ClevrTexEvaluator()
    evaluator.update(prediction, batch["image"], batch["mask"])
    statistics = evaluator.results()["statistics"]
    pairs = {"miou": "mIoU_fg", "dice": "DICE_FG", "ari": "ARI", "ari_fg": "ARI_FG", MONITOR: "MSE"}
    for name, theirs in pairs.items():
        assert found[name] == pytest.approx(statistics[theirs]["mean"]), name


def test_a_picture_without_objects_has_no_part_in_means_over_objects():
    prediction, batch = sample(count=2)
    batch["mask"][1] = 0
    del batch["visible"]
    masks = torch.nn.functional.one_hot(batch["mask"].long(), 4).movedim(-1, 1).float()
    batches = [validation_scalars(Decomposition(recon=prediction.recon, masks=masks), batch)]
    assert batches[0]["miou"].tolist() == [1.0, pytest.approx(math.nan, nan_ok=True)]
    found = mean_over_images(batches)
    assert (found["miou"], found["dice"], found["ari_fg"], found["cnt"]) == (1.0, 1.0, 1.0, 1.5)
    assert found["slot_mse"] == pytest.approx(float(batches[0]["slot_mse"][0]))

    nobody = Decomposition(recon=prediction.recon, masks=masks, extras={"presence": torch.zeros(2, 3)})
    original = mean_over_images([validation_scalars(nobody, batch, as_original=True)])
    assert math.isnan(original["miou_original"])


def test_means_are_over_images_not_over_batches():
    prediction, batch = sample()
    scalars = validation_scalars(prediction, batch)
    parts = [{name: values[part] for name, values in scalars.items()} for part in (slice(0, 1), slice(1, 4))]
    assert mean_over_images(parts, "v1/") == pytest.approx(
        {f"v1/{name}": float(values.mean()) for name, values in scalars.items()}
    )
    assert mean_over_images([]) == {}


def test_a_reconstruction_that_is_not_a_number_shows_in_the_monitor():
    prediction, batch = sample()
    prediction.recon[2] = math.nan
    assert math.isnan(mean_over_images([validation_scalars(prediction, batch)])[MONITOR])


def test_training_logs_what_the_original_logs():
    terms = {"loss": 4.0, "kl": 0.5, "kl_mask": 0.25, "rec_loss": 3.0, "nll": 7.0, "beta": 1.0}
    found = training_scalars({name: torch.tensor(value, requires_grad=True) for name, value in terms.items()})
    wanted = {"loss": 4.0, "kl": 0.5, "loss_comp_ratio": 6.0, "kl_mask": 0.25, "rec_loss": 3.0}
    assert {name: float(value) for name, value in found.items()} == wanted
    assert not any(value.requires_grad for value in found.values())
