"""Answer CLEVRER's questions: the file for its evaluation server, or accuracies where the answers are known.

    python slotformer/clevrer_vqa/test_clevrer_vqa.py \\
        --params slotformer/clevrer_vqa/configs/aloe_clevrer_params-rollout.py \\
        --weight checkpoint/aloe_clevrer_params-rollout/models/epoch/model_400.pth

--split test, the default, writes CLEVRER.json beside the weight, for CLEVRER's evaluation server. --split val prints
accuracies, and writes them to <weight>-vqa-<configuration>-val.json beside the weight; where that holds those of other
slots, the name of these comes before "val".

Reads questions/<split>.json in the configuration's data_root, and the slots of that split in slots_root. Exit codes: 0
done, 1 error, 2 misuse, 130 interrupted.
"""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.commandline import positive
from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser

if TYPE_CHECKING:
    from core.data.vqa import ClevrerQuestions
    from slotformer.clevrer_vqa.evaluation import Answer
    from slotformer.framework.extraction import Trained
    from slotformer.framework.params import BaseParams

SUBMISSION = "CLEVRER.json"


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_parser("slotformer/clevrer_vqa/test_clevrer_vqa.py", __doc__)
    what = "whose questions to answer (default: test)"
    parser.add_argument("--split", choices=["train", "val", "test"], default="test", help=what)
    what = "questions at a time per process (default: val_batch_size of the configuration)"
    parser.add_argument("--bs", type=positive, metavar="N", help=what)
    return parser.parse(words)


def evaluate(arguments: Namespace, words: Sequence[str]) -> int:
    """Answer as the command line says; the exit code."""
    from core.training.launch import end_processes
    from slotformer import clevrer_vqa
    from slotformer.clevrer_vqa.data import open_questions
    from slotformer.clevrer_vqa.evaluation import answer_all
    from slotformer.framework.extraction import launched, open_trained, read_params

    params = read_params(arguments, clevrer_vqa, "CLEVRERAloe")
    if (code := launched(arguments, params, words)) is not None:
        return code
    source = open_questions(params, arguments.split)
    trained = open_trained(arguments, params, clevrer_vqa)
    if not os.access(arguments.weight.parent, os.W_OK):
        raise ValueError(
            f"{arguments.weight.parent}: results cannot be written there. Copy the weight to a folder of yours"
        )
    answers = answer_all(trained, source, arguments.bs or params.val_batch_size)
    end_processes(trained.accelerator)
    if trained.is_main:
        if source.has_answers:
            write_scores(arguments, params, trained, source, answers)
        if arguments.split == "test":
            write_submission(arguments.weight.with_name(SUBMISSION), params, answers)
        elif not source.has_answers:
            raise ValueError(f"{source.path}: has no answers to compare with; --split test is for such questions")
    return 0


def write_scores(
    arguments: Namespace,
    params: "BaseParams",
    trained: "Trained",
    source: "ClevrerQuestions",
    answers: Sequence["Answer"],
) -> None:
    """Print the table, and write it as JSON beside the weight."""
    from core.files import replacing
    from slotformer.clevrer_vqa.evaluation import scores

    found = scores(answers)
    described: dict[str, Any] = {
        **trained.provenance.to_dict(),
        "split": arguments.split,
        "questions": str(source.path),
        "slots": str(params.slots_root),
        "question_only": params.get("question_only", False),
        "scores": found,
    }
    path = scores_file(arguments, str(params.slots_root))
    with replacing(path) as partial:
        partial.write_text(json.dumps(described, indent=2, allow_nan=False) + "\n")
    print("\n".join(table(found)))
    print(f"written to {path}")


def scores_file(arguments: Namespace, slots: str) -> Path:
    """Where the scores go that came of `slots`; those of other ones stay."""
    from slotformer.framework.params import file_of

    begin = f"{arguments.weight.stem}-vqa-{file_of(arguments.params).stem}"
    path = arguments.weight.with_name(f"{begin}-{arguments.split}.json")
    if path.exists() and json.loads(path.read_text()).get("slots") != slots:
        return path.with_name(f"{begin}-{Path(slots).stem}-{arguments.split}.json")
    return path


def table(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each kind of question: how many there are, and the share that is right; the same of choices."""
    lines = [f"{'':16}{'questions':>10}{'right':>8}{'options':>10}{'right':>8}"]
    for name, of in found.items():
        line = f"{name:16}{of['questions']:>10,}{of['acc']:>8.4f}"
        lines.append(line + (f"{of['options']:>10,}{of['option_acc']:>8.4f}" if "options" in of else ""))
    return lines


def write_submission(path: Path, params: "BaseParams", answers: Sequence["Answer"]) -> None:
    """The file for the evaluation server."""
    from core.files import replacing
    from slotformer.clevrer_vqa.data import read_vocabulary
    from slotformer.clevrer_vqa.evaluation import submission

    entries = submission(answers, read_vocabulary(params)["a_vocab"])
    with replacing(path) as partial:
        partial.write_text(json.dumps(entries) + "\n")
    asked = sum(bool(entry["questions"]) for entry in entries)
    print(f"{len(answers):,} answers about {asked:,} of {len(entries):,} scenes in {path}")


def main(words: Sequence[str]) -> int:
    """Answer as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: evaluate(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
