"""The headline evaluation: segmentation (ARI), reconstruction (MSE) and KL of held-out images."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from core.data.loader import BatchSource, evaluation_batches
from core.metrics.reconstruction import mse, psnr, ssim
from core.metrics.segmentation import adjusted_rand_index, foreground_ari, hard_labels, matched_iou, mean_best_overlap
from core.nn.noise import Noise, derive_seed
from core.viz.panels import panel, save_png

PROTOCOL = (
    "FG-ARI over pixels of true objects, 0 for an image without any; masks resized (bicubic) to the size of the truth "
    "before the arg-max; MSE in [0, 1] over pixels and channels; KL in nats per image, of the last refinement step"
)


def per_image_noise(seed: int, indices: range, device: torch.device) -> Noise:
    """Draws keyed by (seed, image): an image's result is the same in any batch."""
    generators = [torch.Generator().manual_seed(derive_seed(seed, index)) for index in indices]

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([torch.randn(shape[1:], generator=generator) for generator in generators]).to(device)

    return draw


def resize_masks(masks: Float[Tensor, "N K H W"], size: tuple[int, int]) -> Float[Tensor, "N K H2 W2"]:
    """Masks at the resolution of the true ones, with Pillow's bicubic filter."""
    if masks.shape[-2:] == size:
        return masks
    return F.interpolate(masks, size, mode="bicubic", antialias=True, align_corners=False)


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


def evaluate(
    model: nn.Module,
    source: BatchSource,
    folder: Path,
    *,
    num_images: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    describe: dict[str, Any],
    show: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Score the first `num_images` images and return what ARI_MSE_KL.json holds.

    Writes into `folder`: ARI.txt, MSE.txt and KL.txt (one line `mean,std`, as the original), ARI_MSE_KL.json with
    everything, and panel.png with the first images.
    """
    model.eval()
    size = min(num_images, len(source))
    rows: dict[str, list[Tensor]] = {}
    began, done = time.perf_counter(), 0
    with tqdm(total=size, desc="ARI_MSE_KL", unit="img") as bar:
        for batch in evaluation_batches(source, batch_size, device, num_images):
            count = len(batch["image"])
            noise = per_image_noise(seed, range(done, done + count), device)
            scored = score_batch(model, batch, noise, folder / "panel.png" if done == 0 else None)
            for name, values in scored.items():
                rows.setdefault(name, []).append(values.double())
            done += count
            bar.update(count)
    values = {name: torch.cat(parts).cpu() for name, parts in rows.items()}
    seconds = time.perf_counter() - began
    statistics = {
        name: {"mean": float(value.nanmean()), "std": float((value - value.nanmean()).square().nanmean().sqrt())}
        for name, value in values.items()
    }
    result = {
        **describe,
        "protocol": PROTOCOL,
        "num_images": size,
        "seconds": round(seconds, 3),
        **statistics,
        "per_image": {name: value.tolist() for name, value in values.items()},
    }
    _write(folder, result, statistics)
    show(_table(statistics, size, seconds))
    return result


def _write(folder: Path, result: dict[str, Any], statistics: dict[str, dict[str, float]]) -> None:
    lines = {"ARI.txt": ("fg_ari", 3), "MSE.txt": ("mse", None), "KL.txt": ("kl", None)}
    for file, (name, decimals) in lines.items():
        if name in statistics:
            numbers = (statistics[name]["mean"], statistics[name]["std"])
            text = ",".join(str(number if decimals is None else round(number, decimals)) for number in numbers)
            (folder / file).write_text(text + "\n")
    (folder / "ARI_MSE_KL.json").write_text(json.dumps(result, indent=2) + "\n")


def _table(statistics: dict[str, dict[str, float]], size: int, seconds: float) -> str:
    names = {"fg_ari": "FG-ARI", "ari": "ARI", "miou": "mIoU", "mbo": "mBO", "mse": "MSE", "psnr": "PSNR (dB)"}
    names |= {"ssim": "SSIM", "kl": "KL (nats)"}
    rows = [f"{'metric':<10} {'mean':>10} {'std':>10}"]
    rows += [f"{names[name]:<10} {of['mean']:>10.5g} {of['std']:>10.3g}" for name, of in statistics.items()]
    return "\n".join([*rows, f"{size} images in {seconds:.1f} s"])
