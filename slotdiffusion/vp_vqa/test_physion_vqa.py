"""Count how often a read-out of Physion is right about the test videos.

    python slotdiffusion/vp_vqa/test_physion_vqa.py \\
        --params slotdiffusion/vp_vqa/configs/readout_physion_params.py \\
        --weight checkpoint/readout_physion_params/models/epoch \\
        --test_slots data/Physion/slots/rollout-physion_test_slots.h5

--weight is a checkpoint or a folder, of which every *.pth is tried in the order of their names. The threshold and the
weight that are right most often on the validation videos of the read-out are tested. With --as-original they are chosen
on the test videos themselves, as the authors' script does.

Reads slots_root of the configuration, and the test slots. Writes vqa-<configuration>.json to the folder, or
<weight>-vqa-<configuration>.json beside the file. Exit codes: 0 done, 1 error, 2 misuse, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from core.outcome import exit_code_of
from slotformer.physion_vqa.test_physion_vqa import build_test_parser, evaluate_readout


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_test_parser("slotdiffusion/vp_vqa/test_physion_vqa.py", __doc__)
    what = "rolled-out slots of the test subset, .h5 or .pkl (default: those beside slots_root)"
    parser.add_argument("--test_slots", type=Path, metavar="FILE", help=what)
    return parser.parse(words)


def evaluate(arguments: Namespace, words: Sequence[str]) -> int:
    """Evaluate as the command line says; the exit code."""
    from slotdiffusion import vp_vqa
    from slotdiffusion.vp_vqa.data import open_readout

    return evaluate_readout(arguments, words, vp_vqa, partial(open_readout, test_slots=arguments.test_slots))


def main(words: Sequence[str]) -> int:
    """Evaluate as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: evaluate(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
