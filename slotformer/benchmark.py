"""What the validations of slotformer/scripts/train.py log of a run, for tools/evaluate.py --as-original."""

import numpy as np
import torch

from core.benchmark.original import Asked, at_size_of
from core.benchmark.subjects import Subject
from core.data.loader import to_device
from core.data.spec import DataSpec
from core.nn.noise import ImageNoise

NEEDS_MASKS = False
DIFFERENCE = (
    "mean terms of the training loss over the same frames in one pass, errors in [-1, 1]: SlotFormer's scripts print "
    "no score of segmentation for base models; a validation takes clips of n_sample_frames"
)


def original_scores(subject: Subject, asked: Asked) -> tuple[dict[str, float], str]:
    """Means over samples, pictures being videos of one frame; see core.benchmark.original."""
    spec = DataSpec.parse(at_size_of(subject, asked.data))
    if spec.kind == "videos":
        source = spec.open_whole(asked.split, asked.root, frames=asked.frames)
    else:
        source = spec.open(asked.split, asked.root)
    size, model = min(asked.limit or len(source), len(source)), subject.model
    sums: dict[str, float] = {}
    before = model.noise
    for begin in range(0, size, asked.batch_size):
        rows = range(begin, min(begin + asked.batch_size, size))
        batch = to_device(source.read(np.array(rows)), subject.device)
        model.noise = ImageNoise(subject.seed_of_noise, rows)
        with torch.no_grad():
            terms = model.loss({"video": batch["video"] if "video" in batch else batch["image"][:, None]}, 0)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + len(rows) * float(value)
    model.noise = before
    return {name: total / size for name, total in sums.items()}, DIFFERENCE
