"""What `osrt/train.py --test --evalnow` prints of a run, for tools/evaluate.py --as-original."""

from core.benchmark.original import Asked
from core.benchmark.subjects import Subject
from core.data.cameras import FixedDraws
from core.data.msn import FOLDER
from core.data.spec import DataSpec
from core.nn.noise import derive_seed
from core.training.launch import make_accelerator
from osrt.config import DataConfig
from osrt.data import open_split
from osrt.evaluation import Evaluator

NEEDS_MASKS = False
NAMES = {"osrt": "msn"}
"""In data strings, of data sets that configurations call otherwise."""
DIFFERENCE = (
    "a sample is a scene from one input view, of whose target views `data.num_points` drawn rays count, all views "
    "together; a scene without objects counts 1 in fg_ari; no resizing, since rays have their own colours"
)


def original_scores(subject: Subject, asked: Asked) -> tuple[dict[str, float], str]:
    """Means over scenes, by the configuration of the run; see core.benchmark.original."""
    spec, trained_on = DataSpec.parse(asked.data), subject.record.data
    name, path = spec.sets[0][0], str(spec.open_whole(asked.split, asked.root).path)
    changes = {"path": path.removesuffix(f"/{FOLDER}")}
    if NAMES.get(trained_on["dataset"], trained_on["dataset"]) != name:
        changes |= {"dataset": "osrt" if name == "msn" else name, "kwargs": {}}
    config = DataConfig(**trained_on | changes)
    source = open_split(config, asked.split, max_len=asked.limit)
    evaluator = Evaluator(
        model=subject.model,
        source=FixedDraws(source, source.draw, derive_seed(subject.record.seed, 2)),
        batch_size=asked.batch_size,
        chunk=config.num_points,
        accelerator=make_accelerator(),
    )
    return evaluator.score(), DIFFERENCE
