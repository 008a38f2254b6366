"""Roll out the slots of CLEVRER's videos beyond their end, for question answering.

    python slotformer/video_prediction/rollout_clevrer_slots.py \\
        --params slotformer/video_prediction/configs/slotformer_clevrer_params.py \\
        --weight pretrained/slotformer_clevrer_params/model_80.pth --save_path data/CLEVRER/rollout_clevrer_slots.h5

Reads the configuration's slots_root. Writes, for each split and video, 160 frames of slots: the 128 that were observed,
and predictions. aloe_clevrer_params-rollout reads data/CLEVRER/rollout_clevrer_slots.h5, or the same name in .pkl: the
original's pickle. A link rollout_slots.h5 is made beside the weight. The same command continues an interrupted one.
Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from core.commandline import positive
from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser

SAVE_PATH = Path("./data/CLEVRER/rollout_slots.h5")
NUM_OBSERVED, NUM_FRAMES = 128, 160


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_parser("slotformer/video_prediction/rollout_clevrer_slots.py", __doc__)
    what = f"file to write, .h5 or .pkl (default: {SAVE_PATH})"
    parser.add_argument("--save_path", type=Path, default=SAVE_PATH, metavar="FILE", help=what)
    what = f"frames of a video that are seen (default: {NUM_OBSERVED})"
    parser.add_argument("--num_observed", type=positive, default=NUM_OBSERVED, metavar="N", help=what)
    what = f"frames that there are to be (default: {NUM_FRAMES})"
    parser.add_argument("--num_frames", type=positive, default=NUM_FRAMES, metavar="N", help=what)
    what = "videos at a time per process (default: 256 on a GPU, 8 on the CPU)"
    parser.add_argument("--bs", type=positive, metavar="N", help=what)
    return parser.parse(words)


def roll_out(arguments: Namespace, words: Sequence[str]) -> int:
    """Roll out as the command line says; the exit code."""
    from slotformer import video_prediction
    from slotformer.framework.extraction import read_params
    from slotformer.framework.params import ParamsError
    from slotformer.video_prediction.rollouts import write_rollouts

    params = read_params(arguments, video_prediction, "SlotFormer")
    if params.dataset != "clevrer_slots":
        raise ParamsError(f"dataset {params.dataset!r} is not clevrer_slots")
    return write_rollouts(arguments, words, video_prediction, params, Path(params.slots_root), "rollout_slots")


def main(words: Sequence[str]) -> int:
    """Roll out as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: roll_out(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
