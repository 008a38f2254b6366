"""What slotdiffusion's test_seg.py scripts print of a run, for tools/evaluate.py --as-original."""

import numpy as np
import torch
from torch import Tensor

from core.benchmark.original import Asked, at_size_of
from core.benchmark.subjects import Subject
from core.data.loader import BatchSource, to_device
from core.data.spec import DataSpec
from core.metrics.segmentation import hard_labels, segmentation_scores
from slotdiffusion.framework.segmentation import means_of
from slotdiffusion.img_based.data import open_split
from slotformer.framework.params import BaseParams

NEEDS_MASKS = True
DIFFERENCE = (
    "pictures and labels at the model's resolution; videos are scored as a whole, fari is FG-ARI of video; a sample "
    "without objects counts 1 in fari, and mIoU and mBO divide by the largest label, whether labels occur or not; "
    "models of pictures see the middle of ClevrTex, resized without antialiasing, as in their training"
)


def original_scores(subject: Subject, asked: Asked) -> tuple[dict[str, float], str]:
    """Means over pictures, or over whole videos by models of videos; see core.benchmark.original."""
    source = _open(subject, DataSpec.parse(at_size_of(subject, asked.data)), asked)
    size = min(asked.limit or len(source), len(source))
    parts: dict[str, list[Tensor]] = {}
    for begin in range(0, size, asked.batch_size):
        batch = to_device(source.read(np.arange(begin, min(begin + asked.batch_size, size))), subject.device)
        if subject.sees == "videos" and "image" in batch:
            batch = {name: values[:, None] for name, values in batch.items()} | {"video": batch["image"][:, None]}
        with torch.no_grad():
            labels = hard_labels(subject.model.segment(batch))
        scores = segmentation_scores(batch["mask"], labels, batch.get("overlap"), as_original=True)
        for name, values in scores.items():
            parts.setdefault(name, []).append(values.cpu())
    means = means_of({name: torch.cat(values).numpy() for name, values in parts.items()})
    return {name: float("nan") if value is None else value for name, value in means.items()}, DIFFERENCE


def _open(subject: Subject, spec: DataSpec, asked: Asked) -> BatchSource:
    """The data as the scripts read them: ClevrTex, and models of videos whole videos; else single frames."""
    if subject.sees == "images" and spec.sets == (("clevrtex", "full"),):
        params = BaseParams(subject.record.arguments["params"])
        params.dataset, params.data_root = "clevrtex", str(spec.open(asked.split, asked.root).path)
        return open_split(params, asked.split, masks=True)
    whole = spec.kind == "images" or (spec.kind == "videos" and subject.sees == "videos")
    if whole:
        return spec.open_whole(asked.split, asked.root, frames=asked.frames)
    return spec.open(asked.split, asked.root, masks=True)
