"""What clevrtex/evaluate.py prints of a run, for tools/evaluate.py --as-original."""

from clevrtex.framework.evaluation import evaluate
from clevrtex.framework.trained import open_trained
from core.benchmark.original import Asked, at_size_of
from core.benchmark.subjects import Subject
from core.data.spec import DataSpec
from core.metrics.clevrtex import AS_DEFINED, AS_ORIGINAL, PROTOCOL

NEEDS_MASKS = True
DIFFERENCE = (
    "pictures and labels at the model's resolution, labels matched to slots one to one before scoring, background "
    f"included; {PROTOCOL + AS_DEFINED + AS_ORIGINAL}; of videos every frame is a "
    "sample"
)


def original_scores(subject: Subject, asked: Asked) -> tuple[dict[str, float], str]:
    """Means over pictures, of videos over single frames; see core.benchmark.original."""
    trained = open_trained(subject.weight, subject.device)
    text = at_size_of(subject, asked.data)
    source = DataSpec.parse(text).open(asked.split, asked.root, masks=True)
    found, _ = evaluate(trained, text, source, limit=asked.limit, batch_size=asked.batch_size, as_original=True)
    statistics = found["statistics"]
    return {name: of["mean"] for name, of in statistics.items() if of["mean"] is not None}, DIFFERENCE
