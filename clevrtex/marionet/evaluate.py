"""Score a trained MarioNette on test sets of the ClevrTex benchmark, or on any other data with masks.

    python -m clevrtex.marionet.evaluate output/mario
    python -m clevrtex.marionet.evaluate output/mario --data clevrtex:full clevrtex:camo --limit 1000
    python -m clevrtex.marionet.evaluate original/model/training_end.pth --data 'clevrtex:full-crop-(128,128)'

RUN is the folder of a training, or a `model/*.pth`, ours or the original's. Beside it go `evaluation-<data>.json` with
all statistics and their intervals; for a file their names begin with its own.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.commandline import StrictParser, positive

if TYPE_CHECKING:
    import torch

    from clevrtex.framework.trained import Trained

MODULE = "clevrtex.marionet.evaluate"
BATCH_SIZE = 8
SEED = 2
"""The original's default, as its checkpoints do not say theirs."""


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser(f"-m {MODULE}", __doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a training, or a checkpoint in its model/")
    parser.add_argument(
        "--load_bg",
        metavar="FILE",
        type=Path,
        help="backgrounds of an original checkpoint (default: the file of its name in bg/ beside model/)",
    )
    parser.add_argument(
        "--data",
        metavar="SPEC",
        nargs="+",
        help="data strings; without flags they are framed as in training (default: the test sets of CLEVR or ClevrTex "
        "that are on disk, or the test split of the training's data)",
    )
    parser.add_argument("--data_root", metavar="DIR", help="folder of the data (default: that of the training)")
    parser.add_argument("--limit", metavar="N", type=positive, help="only the first N pictures (default: all)")
    parser.add_argument("--bs", metavar="N", type=positive, help=f"pictures at a time (default: {BATCH_SIZE})")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: cuda if there is one)")
    parser.add_argument(
        "--as_original", action="store_true", help="also the benchmark's own figures, as mSC_original, ..."
    )
    parser.add_argument("--canvas_size", metavar="N", type=positive, help="side of an original model's pictures")
    return parser.parse(words)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate as told: print tables and write the files."""
    from clevrtex.evaluate import choose_device, write_json
    from clevrtex.framework.evaluation import evaluate, open_data
    from clevrtex.framework.reports import headline_table, over_runs, statistics_table

    trained = open_marionette(arguments, choose_device(arguments.device))
    print(f"{trained.checkpoint}, trained on {trained.data}")
    summaries = {}
    for data, source in open_data(arguments.data, trained, arguments.data_root).items():
        options = {"limit": arguments.limit, "as_original": arguments.as_original}
        found, _ = evaluate(trained, data, source, batch_size=arguments.bs or BATCH_SIZE, **options)
        path = trained.results.with_name(f"{trained.results.name}-{found['short_name']}.json")
        write_json(path, found)
        summaries[data] = over_runs([found])
        print(f"\n{data}: {found['num_images']:,} of {found['images_of_split']:,} pictures of the test split; {path}")
        print(statistics_table([found]))
    print(f"\n{headline_table(summaries)}\n\nprotocol: {found['protocol']}")


def open_marionette(arguments: argparse.Namespace, device: "torch.device") -> "Trained":
    """The model of the command line. Raises CheckpointError, and ValueError where an original one lacks its data."""
    from clevrtex import original
    from clevrtex.framework.trained import RESULTS, open_trained
    from clevrtex.marionet.checkpoints import find

    path = find(arguments.run)
    results = arguments.run / RESULTS if arguments.run.is_dir() else path.with_name(f"{path.stem}-{RESULTS}")
    if "run" not in original.read(path):
        return _open_original(arguments, path, results, device)
    return replace(open_trained(path, device, experiment="marionette"), results=results)


def _open_original(arguments: argparse.Namespace, path: Path, results: Path, device: "torch.device") -> "Trained":
    from clevrtex.framework.trained import Trained
    from clevrtex.models.marionette import MarioNette
    from clevrtex.original.marionette import arguments_of, read_both
    from core.training.checkpoint import load_weights

    if not arguments.data:
        raise ValueError(f"{path}: of the original code, which does not write down its data. Name them with --data")
    weights = read_both(path, arguments.load_bg)
    found = arguments_of(weights, **({"side": arguments.canvas_size} if arguments.canvas_size else {}))
    model = MarioNette(**found)
    load_weights(model, weights, path)
    return Trained(
        model=model.to(device).eval(),
        name="marionette",
        checkpoint=path,
        results=results,
        image_size=found["image_size"],
        data=arguments.data[0],
        data_root=None,
        seed=SEED,
        batch_size=BATCH_SIZE,
        steps=None,
        masks_have_background=True,
        is_original=True,
    )


def main(words: Sequence[str]) -> int:
    """Evaluate as the command line says. Exit codes: 0 done, 1 error, 2 misuse, 130 interrupted."""
    arguments = parse_arguments(words)
    from core.outcome import exit_code_of

    return exit_code_of(lambda: run(arguments) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
