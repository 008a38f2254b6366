"""Everything a figure needs about a few images, one file each."""

import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from core.files import replacing
from core.metrics.reconstruction import mse
from core.metrics.segmentation import foreground_ari, hard_labels
from core.types import Decomposition
from core.viz.panels import panel, save_png
from emorl.evals.task import Task, resize_masks


def export(task: Task) -> None:
    """Write rinfo_{i}.pkl for the first `task.num_images` images: numpy arrays and builtin types only.

    {data: {image [1, H, W, 3] in [0, 1], true_mask [1, E, 1, H, W] of 0 and 255},
     outputs: {recons [1, T, H, W, 3], pred_mask [1, T, K, H, W, 1], pred_mask_logits (log masks, same shape),
               components [1, T, K, H, W, 3] on white, attention [1, T, K, H, W, 1], slots [1, T, K, Z]}}
    over the T steps of inference: layers of the HVAE and refinements, or iterations of Slot Attention. All float32.
    `core.data.safe_pickle.load_pickle` reads the files. Also panel_{i}.png, the last step, and sample_viz.json, FG-ARI
    and MSE after every step, which is printed too.
    """
    size = min(task.num_images, len(task.source))
    scores = {"fg_ari": [], "mse": []}
    for index in tqdm(range(size), desc="sample_viz", unit="img"):
        batch, noise = task.one_image(index)
        with torch.no_grad():
            steps = [step.detach().cpu() for step in task.model.unroll(batch, noise)]
        batch = {name: value.cpu() for name, value in batch.items()}
        for name, values in _score(batch, steps).items():
            scores[name].append(values)
        with replacing(task.folder / f"rinfo_{index}.pkl") as temporary, temporary.open("wb") as file:
            pickle.dump(rinfo(batch, steps, getattr(task.source, "num_entities", None)), file, protocol=4)
        save_png(task.folder / f"panel_{index}.png", panel(batch["image"], steps[-1]))
    means = {name: np.mean(rows, axis=0).tolist() for name, rows in scores.items()}
    print(f"{'step':<6} {'FG-ARI':>8} {'MSE':>10}")
    for step, (ari, error) in enumerate(zip(*means.values())):
        print(f"{step:<6} {ari:>8.3f} {error:>10.3g}")
    task.write_json("sample_viz.json", {"num_images": size, "per_step": means, "per_image_and_step": scores})
    print(f"{size} files rinfo_*.pkl in {task.folder}")


def _score(batch: dict[str, Tensor], steps: list[Decomposition]) -> dict[str, list[float]]:
    """FG-ARI and MSE of one image after every step."""
    size = tuple(batch["mask"].shape[-2:])
    labels = [hard_labels(resize_masks(step.masks, size)) for step in steps]
    return {
        "fg_ari": [float(foreground_ari(batch["mask"], predicted, undefined=0.0)) for predicted in labels],
        "mse": [float(mse(step.recon, batch["image"])) for step in steps],
    }


def rinfo(batch: dict[str, Tensor], steps: list[Decomposition], num_entities: int | None) -> dict[str, Any]:
    """The content of one file, see `export`. `num_entities` is E, by default as many as the labels need."""
    labels = batch["mask"]
    entities = torch.arange(num_entities or int(labels.max()) + 1)
    true_mask = (labels[:, None, None] == entities[None, :, None, None, None]) * 255.0
    masks = torch.stack([step.masks for step in steps], dim=1).unsqueeze(-1)
    rgb = torch.stack([step.rgb for step in steps], dim=1).movedim(3, -1)
    # Attention maps may be coarser than the picture.
    size = steps[0].masks.shape[-2:]
    attention = [torch.nn.functional.interpolate(step.extras["attention"], size) for step in steps]
    content = {
        "data": {"image": batch["image"].movedim(1, -1), "true_mask": true_mask},
        "outputs": {
            "recons": torch.stack([step.recon for step in steps], dim=1).movedim(2, -1),
            "pred_mask": masks,
            "pred_mask_logits": torch.stack([step.extras["log_masks"] for step in steps], dim=1).unsqueeze(-1),
            "components": masks * rgb + (1 - masks),
            "attention": torch.stack(attention, dim=1).unsqueeze(-1),
            "slots": torch.stack([step.slots for step in steps], dim=1),
        },
    }
    return {
        part: {name: value.float().contiguous().numpy() for name, value in values.items()}
        for part, values in content.items()
    }
