"""Do slots hold the factors of their objects, and each dimension one of them: DCI and its relatives."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.model_selection import train_test_split
from torch import Tensor

from core.data.errors import DataError
from core.metrics.disentanglement import (
    DCI,
    dci,
    factor_vae_score,
    mutual_information_gap,
    separated_attribute_predictability,
)
from core.metrics.property_prediction import Prediction, is_discrete, predict_properties
from core.metrics.segmentation import hard_labels, match_objects_to_slots
from core.nn.noise import Noise
from emorl.evals.task import Task, resize_masks

SPLIT_SEED = 5
FEWEST_OBJECTS = 20
CLEVR_FACTORS = ("x", "y", "z", "rotation", "size", "material", "shape", "color", "visibility")
"""Columns of the published CLEVR6 file, which does not name them."""
PRESENCE = "visibility"


@dataclass(frozen=True)
class MatchedObjects:
    """Objects of all images, each with the code of the slot that holds it."""

    codes: Float[np.ndarray, "M Z"]
    factors: Float[np.ndarray, "M F"]
    names: list[str]
    num_present: int
    """How many objects the images show; those that no slot holds, or of few pixels, are not among the M."""


def evaluate(task: Task) -> dict[str, Any]:
    """Score the objects of the first `task.num_images` images, and return what dci.json holds.

    Codes are posterior means (Slot Attention: slots). Half of the objects train the predictors, half test them.
    Writes per image mus_{i}.npy [K, Z], ys_{i}.npy [E, F], gt_masks_{i}.npy [E, 1, H, W] and pred_masks_{i}.npy
    [K, 1, H, W]; dci.txt, the four scores as the original prints them; dci.json.
    """
    objects = collect(task)
    halves = split(objects)
    discrete = [is_discrete(name, column) for name, column in zip(objects.names, objects.factors.T)]
    found = dci(*halves, discrete, seed=task.seed, progress=True)
    if task.as_original:
        original = dci(*halves, discrete, seed=task.seed, as_original=True, progress=True)
        task.write_text("dci.txt", str(_scores(original)))
    else:
        task.write_text("dci.txt", str(_scores(found)))
    probes = predict_properties(*halves, objects.names, discrete, seed=task.seed, progress=True)
    result = {
        "protocol": "posterior means; slots matched to objects of at least 50 pixels by IoU of masks, at least 0.1; "
        f"half of the objects for training, half for test (seed {SPLIT_SEED}); factors that do not vary left out",
        "num_images": min(task.num_images, len(task.source)),
        "num_objects": {"matched": len(objects.codes), "present": objects.num_present},
        "factors": dict(zip(objects.names, ("discrete" if category else "continuous" for category in discrete))),
        "dci": _scores(found),
        "mig": mutual_information_gap(objects.codes, objects.factors, discrete),
        "sap": separated_attribute_predictability(*halves, discrete),
        "factor_vae": factor_vae_score(objects.codes, objects.factors, discrete, seed=task.seed),
        "dci_per_factor": dict(zip(objects.names, found.test_scores.tolist())),
        "property_prediction": {name: asdict(prediction) for name, prediction in probes.items()},
        "importance": found.importance.tolist(),
    }
    task.write_json("dci.json", result)
    print(_table(result, probes))
    return result


def collect(task: Task) -> MatchedObjects:
    """Encode the images and match slots to objects; writes the four arrays of every image.

    Raises DataError without named factors, or if hardly any object is held by a slot.
    """
    codes, factors, num_present = [], [], 0
    for indices, batch, noise in task.batches("objects", task.num_images):
        names = factor_names(task, batch["factors"].shape[2])
        columns = [f for f, name in enumerate(names) if name != PRESENCE]
        means, masks = encode(task.model, batch, noise)
        predicted = hard_labels(masks)
        for i, index in enumerate(indices):
            truth, of_image = batch["mask"][i], batch["factors"][i]
            presence = of_image[:, names.index(PRESENCE)]
            entities, slots = match_objects_to_slots(truth, predicted[i], presence)
            codes.append(means[i][slots].cpu())
            factors.append(of_image[entities.to(of_image.device)][:, columns].cpu())
            num_present += int(presence[1:].bool().sum())
            _write_arrays(task, index, means[i], of_image, truth, masks[i])
    objects = MatchedObjects(
        torch.cat(codes).double().numpy(),
        torch.cat(factors).double().numpy(),
        [names[column] for column in columns],
        num_present,
    )
    if len(objects.codes) < FEWEST_OBJECTS:
        raise DataError(
            f"{task.source.path}: slots hold {len(objects.codes)} of the {num_present} objects in "
            f"{len(codes)} images, and at least {FEWEST_OBJECTS} are needed to predict factors from. Raise "
            "test.num_images_to_process, or train longer"
        )
    return _without_constants(objects)


def _without_constants(objects: MatchedObjects) -> MatchedObjects:
    """Factors that do not vary among the training objects cannot be scored."""
    factors_train = split(objects)[1]
    varying: Bool[np.ndarray, "F"] = (factors_train != factors_train[0]).any(axis=0)
    if constant := [name for name, varies in zip(objects.names, varying) if not varies]:
        print(f"left out, since all objects share them: {', '.join(constant)}")
    names = [name for name, varies in zip(objects.names, varying) if varies]
    return MatchedObjects(objects.codes, objects.factors[:, varying], names, objects.num_present)


def split(objects: MatchedObjects) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes and factors of half of the objects, then of the other half."""
    codes_train, codes_test, factors_train, factors_test = train_test_split(
        objects.codes, objects.factors, test_size=0.5, random_state=SPLIT_SEED, shuffle=True
    )
    return codes_train, factors_train, codes_test, factors_test


def encode(model, batch: dict[str, Tensor], noise: Noise) -> tuple[Float[Tensor, "N K Z"], Float[Tensor, "N K H W"]]:
    """Codes (means) of the slots, and the masks that they decode to, at the resolution of the true ones."""
    codes = model.infer_codes(batch["image"], noise)
    with torch.no_grad():
        logits = model.decode_slots(codes.flatten(0, 1))[1].unflatten(0, codes.shape[:2])
    return codes, resize_masks(logits.softmax(dim=1), tuple(batch["mask"].shape[-2:]))


def factor_names(task: Task, num_factors: int) -> list[str]:
    """Names of the columns: the file's own, or those of the published CLEVR6 file. Raises DataError."""
    names = list(getattr(task.source, "factor_names", [])) or list(CLEVR_FACTORS)
    if len(names) != num_factors or PRESENCE not in names:
        raise DataError(
            f"{task.source.path}: {num_factors} factors without names, or none of them {PRESENCE!r}. The attribute "
            f"`names` of `factors` must name every column, {PRESENCE!r} (1 for objects of the image) among them"
        )
    return names


def _write_arrays(task: Task, index: int, means, factors, labels, masks) -> None:
    entities = torch.arange(len(factors), device=labels.device)[:, None, None, None]
    arrays = {"mus": means, "ys": factors, "pred_masks": masks.unsqueeze(1)}
    for name, array in arrays.items():
        task.write_array(f"{name}_{index}.npy", array.float().cpu().numpy())
    task.write_array(f"gt_masks_{index}.npy", ((labels == entities) * 255).byte().cpu().numpy())


def _scores(found: DCI) -> dict[str, float]:
    names = ("informativeness_train", "informativeness_test", "disentanglement", "completeness")
    return {name: float(getattr(found, name)) for name in names}


def _table(result: dict[str, Any], probes: dict[str, Prediction]) -> str:
    scores = {**result["dci"], "MIG": result["mig"], "SAP": result["sap"], "FactorVAE": result["factor_vae"]}
    lines = [f"{name:<24} {value:>8.3f}" for name, value in scores.items()]
    matched, present = result["num_objects"]["matched"], result["num_objects"]["present"]
    lines.append(f"{matched} of {present} objects are held by a slot")
    lines.append(f"{'factor':<12} {'measure':<9} {'chance':>8} {'trees':>8} {'linear':>8} {'MLP':>8}")
    for name, of in probes.items():
        numbers = (of.chance, result["dci_per_factor"][name], of.linear, of.mlp)
        lines.append(f"{name:<12} {of.measure:<9} " + " ".join(f"{number:>8.3f}" for number in numbers))
    return "\n".join(lines)
