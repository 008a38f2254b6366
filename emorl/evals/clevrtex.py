"""The statistics of the ClevrTex benchmark."""

import torch
import torch.nn.functional as F
from torch import Tensor

from core.metrics.clevrtex import clevrtex_statistics
from emorl.evals.task import Task, statistics_of, statistics_table

PROTOCOL = (
    "labels at the model's resolution (nearest); hard masks; MSE summed over channels and pixels; mIoU after Hungarian "
    "matching, background included, mIoU_fg without it; ARI over all pixels, ARI_FG over pixels of true objects"
)


def evaluate(task: Task) -> None:
    """Print and write (clevrtex.json) every statistic of the first `task.num_images` images."""
    rows: dict[str, list[Tensor]] = {}
    for _, batch, noise in task.batches("clevrtex", task.num_images):
        with torch.no_grad():
            found = task.model.decompose({"image": batch["image"]}, noise)
        labels = batch["mask"]
        if labels.shape[-2:] != batch["image"].shape[-2:]:
            labels = F.interpolate(labels[:, None].float(), batch["image"].shape[-2:], mode="nearest-exact")[
                :, 0
            ].long()
        for name, values in clevrtex_statistics(found.recon, found.masks, batch["image"], labels).items():
            rows.setdefault(name, []).append(values)
    values = {name: torch.cat(parts).cpu() for name, parts in rows.items()}
    statistics = statistics_of(values)
    print(statistics_table(statistics))
    task.write_json(
        "clevrtex.json",
        {
            "protocol": PROTOCOL,
            "num_images": len(values["MSE"]),
            **statistics,
            "per_image": {name: value.tolist() for name, value in values.items()},
        },
    )
