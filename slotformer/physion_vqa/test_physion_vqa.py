"""Count how often a read-out of Physion is right about the test videos.

    python slotformer/physion_vqa/test_physion_vqa.py \\
        --params slotformer/physion_vqa/configs/readout_physion_params.py \\
        --weight checkpoint/readout_physion_params/models/epoch

--weight is a checkpoint or a folder, of which every *.pth is tried in the order of their names. The threshold and the
weight that are right most often on the validation videos of the read-out are tested. With --as-original they are chosen
on the test videos themselves, as the authors' script does.

Reads slots_root of the configuration, and beside it the file (.h5 or .pkl) with "test" in place of "readout" in its
name, or test_slots. Writes vqa-<configuration>.json to the folder, or <weight>-vqa-<configuration>.json beside the
file. Exit codes: 0 done, 1 error, 2 misuse, 130 interrupted.
"""

import argparse
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from core.commandline import StrictParser
from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser

if TYPE_CHECKING:
    from torch import Tensor

    from slotformer.framework.extraction import Trained
    from slotformer.physion_vqa.data import LabelledSlots

THRESHOLDS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65)
AS_ORIGINAL = (
    "threshold and weight are chosen on the test videos themselves, which makes the result too high; three flawed "
    "videos are left in; scenarios are shifted by every video left out"
)


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    return build_test_parser("slotformer/physion_vqa/test_physion_vqa.py", __doc__).parse(words)


def build_test_parser(script: str, description: str) -> StrictParser:
    """The flags of a test of read-outs."""
    parser = build_parser(script, description)
    what = f"probabilities above which the answer is yes (default: {' '.join(map(str, THRESHOLDS))})"
    parser.add_argument("--threshs", type=_probability, nargs="+", default=list(THRESHOLDS), metavar="P", help=what)
    parser.add_argument("--as_original", action="store_true", help=f"{AS_ORIGINAL}: for comparison with the paper")
    return parser


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value


def evaluate(arguments: Namespace, words: Sequence[str]) -> int:
    """Evaluate as the command line says; the exit code."""
    from slotformer import physion_vqa
    from slotformer.physion_vqa.data import open_slots

    return evaluate_readout(arguments, words, physion_vqa, open_slots)


def evaluate_readout(
    arguments: Namespace, words: Sequence[str], task: ModuleType, open_split: Callable[..., "LabelledSlots"]
) -> int:
    """Evaluate read-outs of `task` on what `open_split(params, subset, split, as_original)` gives; the exit code."""
    from core.training.launch import end_processes
    from slotformer.framework.extraction import launched, open_trained, read_params
    from slotformer.physion_vqa.evaluation import touch_probabilities

    params = read_params(arguments, task, "PhysionReadout")
    if (code := launched(arguments, params, words)) is not None:
        return code
    weights, results = weights_of(arguments.weight), results_file(arguments)
    chosen_on = ("test", "test") if arguments.as_original else ("readout", "val")
    sources = {
        subset: open_split(params, subset, split, arguments.as_original)
        for subset, split in dict([chosen_on, ("test", "test")]).items()
    }
    trained = [open_trained(Namespace(**{**vars(arguments), "weight": path}), params, task) for path in weights]
    found = {subset: touch_probabilities(trained, source, params.val_batch_size) for subset, source in sources.items()}
    end_processes(trained[0].accelerator)
    if trained[0].is_main:
        report(arguments, trained, weights, sources, found, results)
    return 0


def weights_of(path: Path) -> list[Path]:
    """The checkpoint, or those of a folder in the order of their names. Raises CheckpointError if there are none."""
    from core.training.checkpoint import CheckpointError

    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.pth"), key=lambda file: file.name)
    if not found:
        inner = next((file.parent for file in sorted(path.rglob("*.pth"))), None)
        raise CheckpointError(f"{path}: no *.pth in this folder" + (f"; there are some in {inner}" if inner else ""))
    return found


def results_file(arguments: Namespace) -> Path:
    """Where the results go. Raises ValueError if they cannot be written there."""
    from slotformer.framework.params import file_of

    weight, ending = arguments.weight, "-as_original" if arguments.as_original else ""
    name = f"vqa-{file_of(arguments.params).stem}{ending}.json"
    path = weight / name if weight.is_dir() else weight.with_name(f"{weight.stem}-{name}")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path.parent}: results cannot be written there. Copy the weights to a folder of yours")
    return path


def report(
    arguments: Namespace,
    trained: Sequence["Trained"],
    weights: Sequence[Path],
    sources: Mapping[str, "LabelledSlots"],
    found: Mapping[str, "Tensor"],
    results: Path,
) -> None:
    """Choose, print what the authors' script prints and more, and write it all as JSON."""
    import torch

    from core.files import replacing
    from slotformer.physion_vqa.evaluation import accuracies, choose

    tables = {
        subset: accuracies(found[subset], torch.from_numpy(source.labels), arguments.threshs)
        for subset, source in sources.items()
    }
    chosen_on, test = next(iter(sources)), sources["test"]
    place, weight = choose(tables[chosen_on])
    threshold = arguments.threshs[place]
    described = {
        **trained[weight].provenance.to_dict(),
        "weight": str(weights[weight]),
        "weights": [path.name for path in weights],
        "thresholds": arguments.threshs,
        "threshold": threshold,
        "chosen_on": f"{chosen_on} {sources[chosen_on].split}",
        "chosen_on_videos": len(sources[chosen_on]),
        "chosen_on_accuracy": float(tables[chosen_on][place, weight]),
        "as_original": arguments.as_original,
        "best_on_test": float(tables["test"].max()),
        **scores_of(found["test"][weight], test, threshold, arguments.as_original),
        "accuracy_by_threshold_and_weight": {name: table.tolist() for name, table in tables.items()},
        "slots": {name: str(source.path) for name, source in sources.items()},
        "remarks": remarks_on(sources),
    }
    with replacing(results) as partial:
        partial.write_text(json.dumps(described, indent=2, allow_nan=False) + "\n")
    print("\n".join(lines_of(described)))
    print(f"all in {results}")
    for remark in described["remarks"]:
        print(f"note: {remark}", file=sys.stderr)


def scores_of(probabilities: "Tensor", test: "LabelledSlots", threshold: float, as_original: bool) -> dict[str, Any]:
    """Accuracy on the test videos, in all and by scenario, beside that of the answer that is right more often."""
    import torch

    from core.metrics.clevrtex import bootstrap_interval
    from slotformer.physion_vqa.evaluation import accuracies_by_scenario, is_right, majority

    labels = torch.from_numpy(test.labels)
    right = is_right(probabilities, labels, threshold).double()
    true_scenarios = torch.tensor([video.scenario for video in test.videos])
    by_scenario = accuracies_by_scenario(right, true_scenarios)
    scores = {
        "num_videos": len(test),
        "accuracy": float(right.mean()),
        "interval": list(bootstrap_interval(right)),
        "majority": majority(labels),
        "scenarios": by_scenario,
    }
    if as_original:
        scores["scenarios_as_original"] = accuracies_by_scenario(right, torch.from_numpy(test.scenarios))
    return scores


def remarks_on(sources: Mapping[str, "LabelledSlots"]) -> list[str]:
    """What about the slots deserves a second look."""
    made_by = {name: source.slots.provenance for name, source in sources.items()}
    differing = [
        key
        for key in ("weight_sha256", "num_observed", "num_frames")
        if len({str(of.get(key)) for of in made_by.values()}) > 1
    ]
    if not differing:
        return []
    files = " and ".join(str(source.path) for source in sources.values())
    return [f"the slots in {files} were made in different ways: {', '.join(differing)}"]


def lines_of(found: Mapping[str, Any]) -> list[str]:
    """What is printed: first what the authors' script prints."""
    scenarios = found.get("scenarios_as_original") or found["scenarios"]
    low, high = found["interval"]
    lines = [f"Testing with threshold {threshold}" for threshold in found["thresholds"]]
    lines.append(f"Best threshold: {found['threshold']}, best weight: {found['weight']}")
    lines.append(f"All accuracy: {found['accuracy']:.3f}")
    lines += [f"{scenario}: {accuracy:.3f}" for scenario, accuracy in scenarios.items()]
    lines.append(
        f"{found['num_videos']:,} test videos, 95 % interval {low:.3f} to {high:.3f}; the more frequent answer alone "
        f"{found['majority']:.3f}"
    )
    if found["as_original"]:
        return [*lines, f"as the original: {AS_ORIGINAL}"]
    lines.append(
        f"threshold and weight chosen on {found['chosen_on_videos']:,} videos of {found['chosen_on']}, accuracy "
        f"{found['chosen_on_accuracy']:.3f}; the best on the test videos themselves has {found['best_on_test']:.3f}"
    )
    return lines


def main(words: Sequence[str]) -> int:
    """Evaluate as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: evaluate(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
