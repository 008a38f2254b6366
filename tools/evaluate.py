"""Score trained models of all papers on data sets of all papers by one protocol.

    python tools/evaluate.py output/full/slota/test runs/emorl checkpoint/savi --data clevrtex:full-crop obj3d \\
        --data-root data
    accelerate launch --multi_gpu --num_processes 2 tools/evaluate.py runs/emorl --data tetrominoes

A run folder stands for its newest checkpoint; a weight with a run record may be given in its place. The same command
continues after an interruption, behind the samples that are scored; finished pairs of a run and a data set are not
scored again unless the weight or the data have changed, or --again is given. Results go to --out: results.jsonl with
everything (core/benchmark/evaluation.py says what), tables in results.csv and results.md. Exit codes: 0 done, 1 error,
2 misuse, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from core.commandline import StrictParser, positive
from core.outcome import exit_code_of

SPLITS = ("train", "val", "test")


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser("tools/evaluate.py", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or weight with a run record")
    what = "data strings, such as clevrtex:full-crop, obj3d, movi:d, tetrominoes, clevr3d, folder:PATH"
    parser.add_argument("--data", nargs="+", required=True, metavar="SPEC", help=what)
    parser.add_argument("--data_root", type=Path, metavar="DIR", help="folder of the data (default: data, ool_data)")
    parser.add_argument("--split", default="test", choices=SPLITS, help="default: test")
    parser.add_argument("--frames", type=positive, metavar="T", help="only the first T frames of videos")
    what = "read pictures at this size, as the model's own paper does; labels, too, are then compared at it"
    parser.add_argument("--size", nargs=2, type=positive, metavar=("H", "W"), help=what)
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N samples of each data set")
    parser.add_argument("--batch_size", type=positive, default=8, metavar="N", help="samples at a time (default: 8)")
    what = "score masks alone, for models whose pictures cost much: SlotDiffusion samples them, STEVE writes words"
    parser.add_argument("--no_pictures", action="store_true", help=what)
    what = "also what the script of the run's own paper would print, and how that differs"
    parser.add_argument("--as_original", action="store_true", help=what)
    what = "score anew, also what is finished or interrupted"
    parser.add_argument("--again", action="store_true", help=what)
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    what = "folder of the results (default: evaluation)"
    parser.add_argument("--out", type=Path, default=Path("evaluation"), metavar="DIR", help=what)
    return parser.parse(words)


def evaluate(arguments: Namespace) -> int:
    """Evaluate as the command line says; the exit code."""
    from core.benchmark.evaluation import Options, open_pairs, sized, usable_device, with_choices
    from core.benchmark.evaluation import evaluate as evaluate_pairs
    from core.benchmark.protocol import Protocol
    from core.benchmark.results import Results
    from core.benchmark.subjects import Subject
    from core.benchmark.tables import csv_table, markdown_tables, original_lines, text_tables
    from core.files import occupy, replacing
    from core.training.launch import end_processes, make_accelerator

    size = None if arguments.size is None else tuple(arguments.size)
    texts = list(dict.fromkeys(sized(text, size) for text in arguments.data))
    subjects = [Subject.open(path) for path in dict.fromkeys(arguments.runs)]
    protocol = with_choices(Protocol(), arguments.split, arguments.frames, not arguments.no_pictures)
    options = Options(
        protocol,
        arguments.data_root,
        arguments.limit,
        arguments.batch_size,
        as_original=arguments.as_original,
        again=arguments.again,
    )
    pairs = open_pairs(subjects, texts, options)
    accelerator = make_accelerator()
    device = accelerator.device if arguments.device is None else usable_device(arguments.device)
    results, lock = Results(arguments.out), None
    if accelerator.is_main_process:
        arguments.out.mkdir(parents=True, exist_ok=True)
        if (lock := occupy(arguments.out)) is None:
            raise ValueError(f"{arguments.out}: another evaluation writes there. Wait for it, or give another --out")
    found = evaluate_pairs(pairs, results, options, accelerator, device)
    if accelerator.is_main_process:
        everything = list(results.read().values())
        for name, text in (("results.csv", csv_table(everything)), ("results.md", markdown_tables(everything))):
            with replacing(arguments.out / name) as partial:
                partial.write_text(text)
        print(f"\n{text_tables(found)}")
        print("".join(f"{line}\n" for line in original_lines(found)))
        print(f"mean over samples +- half the 95 % interval; protocol {protocol}")
        print(f"results in {arguments.out / 'results.jsonl'}, tables in results.csv and results.md beside it")
        lock.close()
    end_processes(accelerator)
    return 0


def main(words: Sequence[str]) -> int:
    """Evaluate as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: evaluate(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
