"""The scalars that training and validation log, under the benchmark's names.

Shapes: B images, K slots of the prediction, E labels of the truth, S slots after alignment (the larger of both).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from core.metrics.clevrtex import segment_statistics, squared_error
from core.metrics.segmentation import Alignment, align_labels, hard_labels, intersection_over_union, with_background
from core.types import Decomposition

MONITOR = "mse"
NEED_OBJECTS = ("slot_mse", "miou", "dice")  # no value where neither truth nor prediction has an object
DIFFERENT_IN_ORIGINAL = ("bg_mse", "slot_mse", "miou", "dice")


def training_scalars(terms: Mapping[str, Tensor]) -> dict[str, Float[Tensor, ""]]:
    """What a training step logs of the terms of a loss: `loss`, `elbo`, `kl`, all `kl_*` and `*_loss`, and their ratio.

    `loss_comp_ratio` is rec_loss / kl. Terms of several values are averaged; nothing leaves the device.
    """
    means = {name: value.detach().float().mean() for name, value in terms.items()}
    logged = {name: means[name] for name in ("loss", "elbo", "kl") if name in means}
    if "rec_loss" in means and "kl" in means:
        logged["loss_comp_ratio"] = means["rec_loss"] / means["kl"]
    return logged | {name: mean for name, mean in means.items() if name.startswith("kl_") or name.endswith("_loss")}


def validation_scalars(
    prediction: Decomposition,
    batch: Mapping[str, Tensor],
    *,
    masks_have_background: bool = True,
    as_original: bool = False,
) -> dict[str, Float64[Tensor, B]]:
    """Scores of every image of a batch of `image` (B, 3, H, W) in [0, 1] and labels `mask` (B, H, W).

    mse        squared error summed over channels and pixels: the monitor
    bg_mse     the same of the background alone: each picture is black outside its own background
    slot_mse   the same of every object alone and the slot matched to it, summed and divided by the number of pairs
    miou, dice after Hungarian matching by IoU: means over those pairs (the benchmark's mIoU_fg and DICE_FG)
    ari, ari_fg, ari2, ari2_fg  adjusted Rand index over all pixels and over true objects (1 if there are none); the
               original took it twice, on matched masks and on masks as they are, which is the same
    acc        1 if the number of predicted objects is the true one, else 0
    cnt        number of predicted objects: `counts` of the prediction's extras, else of masks that exceed 0.5 anywhere,
               less one for the background

    A pair counts if it has pixels on either side. slot_mse, miou and dice are NaN for an image without pairs.

    masks_have_background: False for models whose masks show objects only: slot 0 is then what they leave over.
    as_original: the original's numbers; those that differ are called `miou_original`, `dice_original`,
        `bg_mse_original` and `slot_mse_original`. It matches by `original_score` and calls that miou, and a pair counts
        if its object is visible (`visible` (B, E) of the batch, else if it has pixels) or its slot present (`presence`
        of the extras above 0.5, else always).
    """
    labels = batch["mask"].long()
    masks = prediction.masks if masks_have_background else with_background(prediction.masks)
    num_labels = max(int(labels.max()) + 1, batch["visible"].shape[1] if "visible" in batch else 0)
    alignment = align_labels(
        labels,
        hard_labels(masks),
        max(masks.shape[1], num_labels),
        original_score if as_original else intersection_over_union,
    )
    statistics = segment_statistics(alignment.table)
    in_truth = alignment.table.sum(dim=2) > 0
    if as_original:
        present = _present(prediction.extras.get("presence"), masks)
        pairs, miou, dice = _original_overlap(alignment, present, batch.get("visible", in_truth))
    else:
        pairs = (in_truth | (alignment.table.sum(dim=1) > 0))[:, 1:].sum(dim=1)
        miou, dice = statistics["mIoU_fg"], statistics["DICE_FG"]
    error = squared_error(prediction.recon, batch["image"])
    background_error, object_error = _segment_errors(error, prediction.recon, batch["image"], alignment.labels, labels)
    count = prediction.extras.get("counts")
    if count is None:
        count = (masks.amax(dim=(2, 3)) > 0.5).sum(dim=1) - 1
    scalars = {
        "mse": error.sum(dim=(1, 2)),
        "bg_mse": background_error,
        "slot_mse": object_error / pairs,
        "miou": miou,
        "dice": dice,
        "ari": statistics["ARI"],
        "ari_fg": statistics["ARI_FG"],
        "ari2": statistics["ARI"],
        "ari2_fg": statistics["ARI_FG"],
        "acc": (count == in_truth.sum(dim=1) - 1).double(),
        "cnt": count.double(),
    }
    if not as_original:
        return scalars
    return {f"{name}_original" if name in DIFFERENT_IN_ORIGINAL else name: value for name, value in scalars.items()}


def mean_over_images(batches: Sequence[Mapping[str, Float64[Tensor, "_"]]], prefix: str = "") -> dict[str, float]:
    """Mean of every scalar over all images of the batches, under `prefix` (`v1/` for a second validation set).

    slot_mse, miou and dice leave out images without objects; in the `_original` ones, as in the others, NaN stays NaN.
    """
    means = {}
    for name in batches[0] if batches else ():
        values = torch.cat([batch[name] for batch in batches])
        means[prefix + name] = float(values.nanmean() if name in NEED_OBJECTS else values.mean())
    return means


def original_score(table: Float64[Tensor, "B S S"]) -> Float64[Tensor, "B S S"]:
    """(|P and T| + 0.01) / (|P| + |T| + 0.01), 0 where either is empty: 0.5 for equal segments.

    The original matches by it and reports it as the Jaccard index.
    """
    true_sizes, pred_sizes = table.sum(dim=2, keepdim=True), table.sum(dim=1, keepdim=True)
    return (table + 0.01) / (true_sizes + pred_sizes + 0.01) * ((true_sizes > 0) & (pred_sizes > 0))


def _original_overlap(
    alignment: Alignment, present: Bool[Tensor, "B K"], visible: Shaped[Tensor, "B E"]
) -> tuple[Int64[Tensor, B], Float64[Tensor, B], Float64[Tensor, B]]:
    """Number of pairs, mean score and mean Dice coefficient, which are infinite or NaN without pairs."""
    num_slots = alignment.order.shape[1]
    present, visible = (F.pad(flags > 0.5, (0, num_slots - flags.shape[1])) for flags in (present, visible))
    pairs = (present.gather(1, alignment.order) | visible).sum(dim=1) - 1
    both, scores = (torch.diagonal(of, dim1=1, dim2=2) for of in (alignment.table, original_score(alignment.table)))
    dice = 2 * both / (alignment.table.sum(dim=2) + alignment.table.sum(dim=1)).clamp(min=1)
    return pairs, scores[:, 1:].sum(dim=1) / pairs, dice[:, 1:].sum(dim=1) / pairs


def _present(presence: Float[Tensor, "B _"] | None, masks: Float[Tensor, "B K H W"]) -> Bool[Tensor, "B K"]:
    """Which slots the prediction says are there; the background always is."""
    if presence is None:
        return torch.ones(masks.shape[:2], dtype=torch.bool, device=masks.device)
    return F.pad(presence > 0.5, (masks.shape[1] - presence.shape[1], 0), value=True)


def _segment_errors(
    error: Float64[Tensor, "B H W"],
    recon: Float[Tensor, "B 3 H W"],
    image: Float[Tensor, "B 3 H W"],
    pred_labels: Int64[Tensor, "B H W"],
    true_labels: Int64[Tensor, "B H W"],
) -> tuple[Float64[Tensor, B], Float64[Tensor, B]]:
    """Squared error between pictures cut out by matched masks on black: of the background, and of all other pairs."""
    # Where only one side of a pair has a pixel, it stands against black.
    recon_energy, image_energy = (picture.double().square().sum(dim=1) for picture in (recon, image))
    same = pred_labels == true_labels
    background, objects = (
        torch.where(pred & true & same, error, pred * recon_energy + true * image_energy).sum(dim=(1, 2))
        for pred, true in ((pred_labels == 0, true_labels == 0), (pred_labels > 0, true_labels > 0))
    )
    return background, objects
