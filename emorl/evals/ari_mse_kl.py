"""The headline evaluation: segmentation (ARI), reconstruction (MSE) and KL of held-out images."""

import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.metrics.reconstruction import mse, psnr, ssim
from core.metrics.segmentation import adjusted_rand_index, foreground_ari, hard_labels, matched_iou, mean_best_overlap
from core.nn.noise import Noise
from core.viz.panels import panel, save_png
from emorl.evals.task import Task, resize_masks, statistics_of, statistics_table

PROTOCOL = (
    "FG-ARI over pixels of true objects, 0 for an image without any; masks resized (bicubic) to the size of the truth "
    "before the arg-max; MSE in [0, 1] over pixels and channels; KL in nats per image, of the last refinement step"
)
TITLES = {
    "fg_ari": "FG-ARI",
    "ari": "ARI",
    "miou": "mIoU",
    "mbo": "mBO",
    "mse": "MSE",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "kl": "KL (nats)",
}


def score_batch(
    model: nn.Module, batch: dict[str, Tensor], noise: Noise, picture: Path | None = None
) -> dict[str, Float[Tensor, "N"]]:
    """Every metric of every image of a batch with `image` and `mask`; KL only where the model has one."""
    with torch.no_grad():
        found = model.decompose({"image": batch["image"]}, noise)
    truth = batch["mask"]
    predicted = hard_labels(resize_masks(found.masks, tuple(truth.shape[-2:])))
    scores = {
        "fg_ari": foreground_ari(truth, predicted, undefined=0.0),
        "ari": adjusted_rand_index(truth, predicted, ignore_background=False),
        "miou": matched_iou(truth, predicted, ignore_background=True),
        "mbo": mean_best_overlap(truth, predicted),
        "mse": mse(found.recon, batch["image"]),
        "psnr": psnr(found.recon, batch["image"]),
        "ssim": ssim(found.recon, batch["image"]),
    }
    if "kl" in found.extras:
        scores["kl"] = found.extras["kl"]
    if picture:
        same_size = truth.shape[-2:] == batch["image"].shape[-2:]
        save_png(picture, panel(batch["image"], found, truth if same_size else None))
    return scores


def evaluate(task: Task) -> dict[str, Any]:
    """Score the first `task.num_images` images and return what ARI_MSE_KL.json holds.

    Writes ARI.txt, MSE.txt and KL.txt (one line `mean,std`, as the original), ARI_MSE_KL.json with everything, and
    panel.png with the first images.
    """
    rows: dict[str, list[Tensor]] = {}
    began = time.perf_counter()
    for indices, batch, noise in task.batches("ARI_MSE_KL", task.num_images):
        picture = task.folder / "panel.png" if indices.start == 0 else None
        for name, values in score_batch(task.model, batch, noise, picture).items():
            rows.setdefault(name, []).append(values.double())
    values = {name: torch.cat(parts).cpu() for name, parts in rows.items()}
    seconds = time.perf_counter() - began
    statistics = statistics_of(values)
    result = {
        "protocol": PROTOCOL,
        "num_images": len(values["fg_ari"]),
        "seconds": round(seconds, 3),
        **statistics,
        "per_image": {name: value.tolist() for name, value in values.items()},
    }
    for file, name, decimals in (("ARI.txt", "fg_ari", 3), ("MSE.txt", "mse", None), ("KL.txt", "kl", None)):
        if name in statistics:
            numbers = (statistics[name]["mean"], statistics[name]["std"])
            rounded = (number if decimals is None else round(number, decimals) for number in numbers)
            task.write_text(file, ",".join(map(str, rounded)) + "\n")
    task.write_json("ARI_MSE_KL.json", result)
    print(statistics_table(statistics, TITLES))
    print(f"{result['num_images']} images in {seconds:.1f} s")
    return result
