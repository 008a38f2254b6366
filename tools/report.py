"""Make a static page about trained runs of any paper: curves, leaderboard, pictures slot by slot, configurations.

python tools/report.py runs/emorl/weights/mine-state-9999.pth output/clect/slota/test --out report --data clevrtex:full

Open report/index.html in a browser; it needs no server and no network, and the folder can be moved. The same command
overwrites its own page. Runs are run folders or checkpoint files.
"""

import argparse
import sys
from pathlib import Path

from core.commandline import StrictParser, positive
from core.outcome import exit_code_of


def parse_arguments(words: list[str]) -> argparse.Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser("tools/report.py", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder or checkpoint file")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the page goes")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="what tools/evaluate.py wrote (default: evaluation/results.jsonl, if there is one)",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="SPEC",
        help="data strings of the galleries, such as clevrtex:full-crop-(128,128) (default: what a run was trained on)",
    )
    parser.add_argument("--data_root", type=Path, metavar="FOLDER", help="where the data lie (default: ool_data, data)")
    parser.add_argument("--split", default="test", help="of the galleries' data (default: test)")
    parser.add_argument("--samples", type=positive, default=6, metavar="N", help="per gallery (default: 6)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--force", action="store_true", help="write into a folder that holds other files, too")
    return parser.parse(words)


def main(words: list[str]) -> int:
    arguments = parse_arguments(words)

    def work() -> int:
        from core.report.making import Pictures, make_report

        pictures = Pictures(arguments.data, arguments.data_root, arguments.split, arguments.samples, arguments.device)
        index = make_report(arguments.runs, arguments.out, pictures, arguments.results, arguments.force)
        print(index)
        return 0

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
