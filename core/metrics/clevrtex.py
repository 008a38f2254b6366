"""The statistics of the ClevrTex benchmark (Karazija et al. 2021), which several of the papers report.

Shapes: B images, K predicted slots, S = as many slots as truth and prediction need. Truth comes as labels, 0 being the
background; predictions are compared as hard masks.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Integer
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from core.metrics.segmentation import adjusted_rand_index, contingency, hard_labels

STATISTICS = ("MSE", "acc", "mIoU", "mIoU_fg", "mIoU_gt", "DICE", "DICE_FG", "ARI", "ARI_FG")


def clevrtex_statistics(
    pred_image: Float[Tensor, "B C H W"],
    pred_masks: Float[Tensor, "B K H W"],
    true_image: Float[Tensor, "B C H W"],
    true_labels: Integer[Tensor, "B H W"],
) -> dict[str, Float64[Tensor, B]]:
    """Every statistic of every image, under the benchmark's names.

    MSE      squared error SUMMED over channels and pixels
    acc      1 if as many slots are non-empty in the prediction as in the truth, background included, else 0
    mIoU     after Hungarian matching of all slots: mean IoU over slots that are non-empty on either side
    mIoU_fg  the same without the slot matched to label 0
    mIoU_gt  mean over the true slots only
    DICE, DICE_FG  2 |P and T| / (|P| + |T|) of the same pairs, averaged as mIoU and mIoU_fg
    ARI, ARI_FG    adjusted Rand index over all pixels, and over pixels of true objects (1 if there are none)

    mIoU_fg and DICE_FG are NaN for an image with a single segment. Raises ValueError if shapes do not agree.
    """
    num_slots = max(int(true_labels.max()) + 1, pred_masks.shape[1])
    predicted = hard_labels(pred_masks)
    table = _align(contingency(true_labels, predicted, num_slots, num_slots))
    both = torch.diagonal(table, dim1=1, dim2=2)
    true_sizes, pred_sizes = table.sum(dim=2), table.sum(dim=1)
    iou = both / (true_sizes + pred_sizes - both).clamp(min=1)
    dice = 2 * both / (true_sizes + pred_sizes).clamp(min=1)
    in_truth, in_prediction = true_sizes > 0, pred_sizes > 0
    used = (in_truth | in_prediction).sum(dim=1)
    return {
        "MSE": (pred_image.double() - true_image.double()).square().sum(dim=(1, 2, 3)),
        "acc": (in_truth.sum(dim=1) == in_prediction.sum(dim=1)).double(),
        "mIoU": iou.sum(dim=1) / used,
        "mIoU_fg": iou[:, 1:].sum(dim=1) / (used - 1),
        "mIoU_gt": iou.sum(dim=1) / in_truth.sum(dim=1),
        "DICE": dice.sum(dim=1) / used,
        "DICE_FG": dice[:, 1:].sum(dim=1) / (used - 1),
        "ARI": adjusted_rand_index(true_labels, predicted, ignore_background=False),
        "ARI_FG": adjusted_rand_index(true_labels, predicted, ignore_background=True, undefined=1.0),
    }


def _align(table: Float64[Tensor, "B S S"]) -> Float64[Tensor, "B S S"]:
    """Columns (predicted slots) in the order of the true slots they are matched to, by the largest sum of IoU."""
    union = table.sum(dim=2, keepdim=True) + table.sum(dim=1, keepdim=True) - table
    scores = (table / union.clamp(min=1)).cpu().numpy()
    order = torch.stack([torch.from_numpy(linear_sum_assignment(score, maximize=True)[1]) for score in scores])
    return table.gather(2, order.to(table.device)[:, None, :].expand_as(table))
