"""What emorl/eval.py prints of a run (`test.eval_type=ARI_MSE_KL`), for tools/evaluate.py --as-original."""

import torch

from core.benchmark.original import Asked, at_size_of
from core.benchmark.subjects import Subject
from core.data.loader import evaluation_batches
from core.data.spec import DataSpec
from core.nn.noise import seeded_noise
from emorl.evals.ari_mse_kl import PROTOCOL, score_batch
from emorl.evals.task import statistics_of

NEEDS_MASKS = True
DIFFERENCE = (
    f"pictures and labels at the model's resolution; {PROTOCOL}; an image without objects counts 0 in FG-ARI in place "
    "of being left out; other noise; of videos "
    "every frame is a sample"
)


def original_scores(subject: Subject, asked: Asked) -> tuple[dict[str, float], str]:
    """Means over pictures, of videos over single frames; see core.benchmark.original."""
    source = DataSpec.parse(at_size_of(subject, asked.data)).open(asked.split, asked.root, masks=True)
    noise, rows, begin = seeded_noise(subject.record.seed, subject.device), {}, 0
    for batch in evaluation_batches(source, asked.batch_size, subject.device, asked.limit):
        images = range(begin, begin + len(batch["image"]))
        begin = images.stop
        for name, values in score_batch(subject.model, batch, noise(images)).items():
            rows.setdefault(name, []).append(values.double().cpu())
    statistics = statistics_of({name: torch.cat(parts) for name, parts in rows.items()})
    return {name: of["mean"] for name, of in statistics.items()}, DIFFERENCE
