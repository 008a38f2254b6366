"""The scores of predicted videos, and the library's box and mean functions, against the original's."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.metrics.detection import (
    boxes_of_labels,
    corners_of_sizes,
    pairwise_iou,
    precision_and_recall,
    sizes_of_corners,
)
from core.metrics.perceptual import load_lpips
from core.metrics.reconstruction import psnr, ssim
from core.metrics.segmentation import adjusted_rand_index, hard_labels
from core.metrics.video_prediction import (
    OBJECT_SCORES,
    PICTURE_SCORES,
    RunningMean,
    StepMeans,
    confident_labels,
    object_scores,
    picture_scores,
)
from tests.parity.golden import Case, Check

NOT_THERE = -1
"""All coordinates of a predicted box that is absent."""


def agree(case: Case, name: str, ours: Tensor) -> None:
    theirs = case[name]
    ours = ours.detach().to(theirs.dtype).reshape(theirs.shape)
    torch.testing.assert_close(
        ours, theirs, equal_nan=True, msg=lambda text: f"{name}: {text}", **case.info["tolerance"]["out"]
    )


def unit(pictures: Tensor) -> Tensor:
    return (pictures / 2 + 0.5).clamp(0, 1)


def check_pixels(case: Case, tmp_path: Path) -> None:
    truth, pred = case["in/gt"], case["in/pred"]
    scores = picture_scores(pred[:, None], truth[:, None])
    for name, values in scores.items():
        agree(case, f"out/{name}", values.mean())
    agree(case, "out/psnr_each", scores["psnr"])
    agree(case, "out/ssim_each", scores["ssim"])
    agree(case, "out/gt_rgb", unit(truth[0]))
    agree(case, "out/pred_rgb", unit(pred[0]))
    agree(case, "out/ssim_same", picture_scores(truth[:, None], truth[:, None])["ssim"].mean())
    torch.testing.assert_close(scores["psnr"][:, 0], psnr(unit(pred), unit(truth)))
    torch.testing.assert_close(scores["ssim"][:, 0], ssim(unit(pred), unit(truth)))


def check_segmentation(case: Case, tmp_path: Path) -> None:
    found = scores_of_labels(case["in/pred"], case["in/gt"])
    for name in ("ari", "fari", "miou"):
        agree(case, f"out/{name}", found[name])
        agree(case, f"out/{name}_mean", found[name].mean())
    video = case["in/gt"][None], case["in/pred"][None]
    for name, foreground in (("ari_video", False), ("fari_video", True)):
        ours = adjusted_rand_index(*video, ignore_background=foreground, undefined=1.0)
        agree(case, f"out/{name}", ours)
    edges = {key.split("/")[2] for key in case.arrays if key.startswith("in/edge/")}
    for edge in edges:
        found = scores_of_labels(case[f"in/edge/{edge}/pred"], case[f"in/edge/{edge}/gt"])
        recorded = case.tensors(f"out/edge/{edge}/")
        for name in recorded:
            agree(case, f"out/edge/{edge}/{name}", found[name])
        # The recording leaves out what is NaN.
        assert ("miou" in recorded) == bool(found["miou"].isfinite().all()), edge


def scores_of_labels(pred: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Of single pictures, without boxes."""
    boxes, visible = torch.zeros(*pred.shape[:1], 1, 0, 4), torch.zeros(*pred.shape[:1], 1, 0, dtype=torch.bool)
    scores = object_scores(pred[:, None], truth[:, None], boxes, boxes, visible, as_original=True)
    return {name: values[:, 0] for name, values in scores.items()}


def check_boxes(case: Case, tmp_path: Path) -> None:
    masks = case["in/masks"].squeeze(3)
    labels = confident_labels(masks)
    assert torch.equal(labels, case["out/postproc_mask"])
    assert torch.equal(hard_labels(masks), case["out/argmax_mask"])
    assert torch.equal(boxes_of_labels(labels, case["out/boxes"].shape[-2]), case["out/boxes"])
    true_boxes, pred_boxes, present = case["in/gt_boxes"], case["in/pred_boxes"], case["in/gt_present"]
    for name in case.tensors("out/precision_recall"):
        if name != "_mean":
            threshold = float(f"{name[1]}.{name[2:]}") if name else 0.5
            ours = torch.stack(precision_and_recall(pred_boxes, true_boxes, present, threshold), dim=-1)
            agree(case, f"out/precision_recall{name}", ours)
    agree(case, "out/precision_recall_mean", torch.stack(precision_and_recall(pred_boxes, true_boxes, present)).mean(1))
    for name in case.tensors("out/box_iou_"):
        pred = pred_boxes[int(name)]
        ours = pairwise_iou(true_boxes[int(name)][present[int(name)]], pred[(pred != NOT_THERE).any(dim=1)])
        agree(case, f"out/box_iou_{name}", ours)


def mean_difference(x: Tensor, y: Tensor) -> Tensor:
    """What the recording has in place of the perceptual distance."""
    return (x - y).abs().mean(dim=(1, 2, 3))


def check_step(case: Case, tmp_path: Path) -> None:
    """All scores together, and batch by batch."""
    given = case.tensors("in/")
    pictures = picture_scores(given["pred"], given["gt"], mean_difference)
    arguments = ("pred_mask", "gt_mask", "pred_bbox", "gt_bbox", "gt_pres_mask")
    scores = pictures | object_scores(*(given[name] for name in arguments), as_original=True)
    assert tuple(scores) == (*PICTURE_SCORES, *OBJECT_SCORES)
    means = StepMeans(as_original=True)
    for video in range(len(given["gt"])):
        means.update({name: values[video : video + 1] for name, values in scores.items()})
    found = means.means()
    assert found.keys() | {f"notraj_{name}" for name in found} == case.tensors("out/").keys()
    for name, ours in found.items():
        agree(case, f"out/{name}", ours)
        # Without masks and boxes the original writes zeros; those scores are absent from ours.
        agree(case, f"out/notraj_{name}", ours if name in PICTURE_SCORES else torch.zeros_like(ours))


def lpips_weights(case: Case) -> dict[str, Tensor]:
    """By the lpips package's names, drawn as the case describes."""
    draws = np.random.RandomState(case.info["config"]["weights_seed"])
    weights = {}
    for name, shape in case.info["config"]["order"]:
        values = draws.standard_normal(shape)
        if name.startswith("lin"):
            values = 0.1 * np.abs(values)
        else:
            values *= np.sqrt(2 / math.prod(shape[1:])) if len(shape) == 4 else 0.01
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def check_lpips(case: Case, tmp_path: Path) -> None:
    (net,) = re.findall(r'net="(\w+)"', case.info["class"])
    torch.save(lpips_weights(case), tmp_path / "lpips.pth")
    lpips = load_lpips(net, [tmp_path / "lpips.pth"])
    config = case.info["config"]
    assert lpips.shift.flatten().tolist() == pytest.approx(config["shift"])
    assert lpips.scale.flatten().tolist() == pytest.approx(config["scale"])
    x, y = case["in/x"], case["in/y"]
    ours = lpips(x, y)
    agree(case, "out/distance", ours)
    agree(case, "out/mean", ours.mean())
    agree(case, "out/layers", torch.stack(list(lpips.layers(x, y))))


def check_box_functions(case: Case, tmp_path: Path) -> None:
    a, b = case["in/a"], case["in/b"]
    classes = case["in/class_a"].squeeze(-1), case["in/class_b"].squeeze(-1)
    corners = corners_of_sizes(a, "center")
    for origin in ("center", "corner"):
        agree(case, f"out/a_xyxy_{origin}", corners_of_sizes(a, origin))
        agree(case, f"out/a_back_{origin}", sizes_of_corners(corners, origin))
    pairs = corners, corners_of_sizes(b, "center")
    for name in ("xywh", "xyxy"):
        agree(case, f"out/iou_{name}", pairwise_iou(*pairs))
        agree(case, f"out/iou_{name}_cls", pairwise_iou(*pairs, *classes))


def check_means(case: Case, tmp_path: Path) -> None:
    mean, history = RunningMean(), []
    agree(case, "out/mean_metric_empty", mean.mean(undefined=0.0))
    assert mean.mean().isnan()
    for value, weight in zip(case["in/values"], case["in/weights"].tolist()):
        mean.update(value[None], weight)
        history.append(mean.mean())
    for name in ("average_meter", "mean_metric"):
        agree(case, f"out/{name}", torch.stack(history))
    mean.update(torch.tensor([math.nan]), 2)
    agree(case, "out/average_after_nan", mean.mean())


CHECKS: dict[str, Check] = {
    "metrics-pixel": check_pixels,
    "metrics-segmentation": check_segmentation,
    "metrics-boxes": check_boxes,
    "metrics-eval-step": check_step,
    "metrics-lpips": check_lpips,
    "nerv-bbox": check_box_functions,
    "nerv-meters": check_means,
}
