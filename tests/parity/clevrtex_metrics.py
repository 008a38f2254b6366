"""The benchmark's evaluator and the scalars of training and validation against the original's."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clevrtex.framework.pictures import epochs_with_pictures
from clevrtex.framework.validation import mean_over_images, original_score, training_scalars, validation_scalars
from core.metrics.clevrtex import ClevrTexEvaluator
from core.metrics.segmentation import adjusted_rand_index, align_labels, hard_labels, with_background
from core.types import Decomposition
from tests.parity.emorl_metrics import close
from tests.parity.golden import Case, Check


def one_hot(labels: Tensor, num_labels: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, num_labels).movedim(-1, 1)


def check_evaluator(case: Case, tmp_path: Path) -> None:
    """Running sums after every update, breakdowns, matched masks; the defects included."""
    has_background = "masks_have_background=True" in case.info["class"]
    evaluator = ClevrTexEvaluator(masks_have_background=has_background, as_original=True)
    for update, metadata in enumerate(case.info["metadata"]):
        given = case.tensors(f"in/{update}_")
        prediction = Decomposition(recon=given["pred_image"], masks=given["pred_masks"].flatten(1, -3))
        truth = given["true_masks"].flatten(1, -3)
        labels = truth.argmax(dim=1) if truth.shape[1] > 1 else truth[:, 0]
        alignment = evaluator.update(prediction, given["true_image"], labels, metadata)
        for name, ours in (("pred_aligned", alignment.labels), ("true", labels.long())):
            theirs = case[f"out/{update}_{name}"].squeeze(2)
            assert torch.equal(one_hot(ours, theirs.shape[1]).float(), theirs), name
        results = json.loads(json.dumps(evaluator.results(), allow_nan=False))
        for name, (total, count) in case.info["running_sums_after_each_update"][update].items():
            ours = statistic(results, name)
            assert ours["count"] == count, name
            assert ours["mean"] == (None if total is None else pytest.approx(total / count, rel=1e-5)), name
    for name, value in case.tensors("out/stat_").items():
        mean = statistic(results, name)["mean"]
        close(torch.tensor(torch.nan if mean is None else mean), value, rtol=1e-5, atol=0)
    for name, tags in case.info["tag_statistics"].items():
        assert results["by_tag"][name].keys() == tags.keys()
        for tag, values in tags.items():
            ours = [(value, of_value["mean"]) for value, of_value in results["by_tag"][name][tag].items()]
            assert ours == [(str(value), pytest.approx(mean, rel=1e-5)) for value, mean in values]


def statistic(results: dict, name: str) -> dict:
    """By the original's name."""
    found = results["statistics"]
    return found[name] if name in found else found[f"{name}_original"]


def check_validation(case: Case, tmp_path: Path) -> None:
    """Matching by the original's score, for masks with the background and for masks without."""
    truth = hard_labels(case["in/true"].squeeze(2))
    masks = case["in/pred"].squeeze(2)
    visible = {"bg": torch.ones(masks.shape[:2]), "nobg": case["in/pred_vis"].float()}
    visible["nobg"][:, 0] = 1
    num_slots = max(masks.shape[1], case["in/true"].shape[1])
    for kind, soft in (("bg", masks), ("nobg", with_background(masks[:, 1:]))):
        predicted = hard_labels(soft)
        alignment = align_labels(truth, predicted, num_slots, original_score)
        out = case.tensors(f"out/{kind}_")
        for name, labels in (("pred_aligned", alignment.labels), ("true_aligned", truth)):
            assert torch.equal(one_hot(labels, num_slots).bool(), out[name].squeeze(2)), name
        padded = torch.nn.functional.pad(visible[kind] > 0.5, (0, num_slots - masks.shape[1]))
        assert torch.equal(padded.gather(1, alignment.order), out["pred_vis"])
        close(torch.diagonal(original_score(alignment.table), dim1=1, dim2=2), out["iou"], rtol=0, atol=1e-6)
        sizes = alignment.table.sum(dim=2) + alignment.table.sum(dim=1)
        dice = 2 * torch.diagonal(alignment.table, dim1=1, dim2=2) / sizes.clamp(min=1)
        close(dice, out["dice"], rtol=0, atol=1e-6)
        for name, labels in (("ari", alignment.labels), ("ari2", predicted)):
            for suffix, foreground in (("", False), ("_fg", True)):
                ours = adjusted_rand_index(truth, labels, ignore_background=foreground, undefined=1.0)
                close(ours, out[name + suffix], rtol=0, atol=1e-6)


def terms_of(case: Case, table: str) -> dict[str, Tensor]:
    """The terms of a loss that the json states as `<table>: <name> <number or list>, ...`."""
    (stated,) = re.findall(rf"{table}: ([^;]*)", case.info["inputs_note"])
    terms = re.findall(r"(\w+) (\[[^\]]*\]|[\d.]+)", stated)
    assert terms
    return {name: torch.tensor([float(word) for word in numbers.strip("[]").split(",")]) for name, numbers in terms}


def check_logging(case: Case, tmp_path: Path) -> None:
    """The scalars of two kinds of models and of two losses, and the epochs with pictures."""
    masks, presence = case["in/masks"].squeeze(2), case["in/z_pres"].squeeze(2)
    batch = {
        "image": case["in/img"],
        "mask": hard_labels(case["in/true_masks"].squeeze(2)),
        "visible": case["in/true_vis"],
    }
    of_layers = Decomposition(recon=case["in/canvas"], masks=masks)
    of_steps = Decomposition(
        recon=case["in/canvas"],
        masks=masks[:, 1:] * presence[:, :, None, None],
        extras={"presence": presence, "counts": presence.sum(dim=1)},
    )
    layers = validation_scalars(of_layers, batch, as_original=True)
    steps = validation_scalars(of_steps, batch, masks_have_background=False, as_original=True)
    prefix = next(iter(case.info["tables"]["steps"])).removesuffix(next(iter(layers)))
    batches = [{name: value[images] for name, value in steps.items()} for images in (slice(1), slice(1, None))]
    found = {
        "layers": mean_over_images([layers]),
        "steps": mean_over_images(batches, prefix),
        **{table: training_scalars(terms_of(case, table)) for table in case.info["tables"] if "train" in table},
    }
    for table, theirs in case.info["tables"].items():
        ours = {name.removesuffix("_original"): float(value) for name, value in found[table].items()}
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            wanted = torch.nan if value is None else value
            assert ours[name] == pytest.approx(wanted, rel=1e-5, nan_ok=True), name
    (calendar,) = (key for key in case.info if key.startswith("epochs_with_pictures_below_"))
    assert epochs_with_pictures(int(calendar.rpartition("_")[2])) == case.info[calendar]


CHECKS: dict[str, Check] = {
    "metrics-evaluator": check_evaluator,
    "metrics-validation": check_validation,
    "logging": check_logging,
}
