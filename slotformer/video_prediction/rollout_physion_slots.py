"""Roll out the slots of Physion's videos from the frames before a contact, for the read-out.

    python slotformer/video_prediction/rollout_physion_slots.py \\
        --params slotformer/video_prediction/configs/slotformer_physion_params.py \\
        --weight pretrained/slotformer_physion_params/model_25.pth --subset readout

Reads <subset>_slots.h5 (or .pkl) in the folder of the configuration's slots_root. Writes, for each split and video, as
many frames of slots as a video has: the first 45, and predictions. A link <subset>_slots.h5 is made beside the weight:
readout_physion_params and its test look for readout_slots and test_slots in checkpoint/slotformer_physion_params. The
same command continues an interrupted one. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal, 130
interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.commandline import StrictParser, positive
from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser

if TYPE_CHECKING:
    from slotformer.framework.params import BaseParams

SUBSETS = ("readout", "test")
SAVE_PATH = "./data/Physion/rollout_{}_slots.h5"
NUM_OBSERVED = 45


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    return build_rollout_parser("slotformer/video_prediction/rollout_physion_slots.py", __doc__, SAVE_PATH).parse(words)


def build_rollout_parser(script: str, description: str, save_path: str) -> StrictParser:
    """The flags of roll-outs of Physion, which go to `save_path` with the subset in it unless said."""
    parser = build_parser(script, description)
    parser.add_argument("--subset", choices=SUBSETS, default=SUBSETS[0], help=f"default: {SUBSETS[0]}")
    what = f"file to write, .h5 or .pkl (default: {save_path.format('<subset>')})"
    parser.add_argument("--save_path", type=Path, metavar="FILE", help=what)
    what = f"frames of a video that are seen (default: {NUM_OBSERVED})"
    parser.add_argument("--num_observed", type=positive, default=NUM_OBSERVED, metavar="N", help=what)
    what = "frames that there are to be (default: the configuration's video_len)"
    parser.add_argument("--num_frames", type=positive, metavar="N", help=what)
    what = "videos at a time per process (default: 256 on a GPU, 8 on the CPU)"
    parser.add_argument("--bs", type=positive, metavar="N", help=what)
    return parser


def roll_out(arguments: Namespace, words: Sequence[str]) -> int:
    """Roll out as the command line says; the exit code."""
    from slotformer import video_prediction
    from slotformer.framework.extraction import read_params
    from slotformer.video_prediction.rollouts import write_rollouts

    params = read_params(arguments, video_prediction, "STEVESlotFormer", "SlotFormer")
    check_arguments(arguments, params, SAVE_PATH)
    link = f"{arguments.subset}_slots"
    slots = Path(params.slots_root)
    return write_rollouts(arguments, words, video_prediction, params, slots.with_name(link + slots.suffix), link)


def check_arguments(arguments: Namespace, params: "BaseParams", save_path: str) -> None:
    """Fill in --num_frames and --save_path, and remark on its name. Raises ParamsError for other data than Physion."""
    from slotformer.framework.params import ParamsError

    if not params.dataset.startswith("physion_slots"):
        raise ParamsError(f"dataset {params.dataset!r} is not physion_slots_training or another of Physion's")
    if arguments.num_frames is None:
        arguments.num_frames = params.video_len
    arguments.save_path = arguments.save_path or Path(save_path.format(arguments.subset))
    if arguments.subset not in arguments.save_path.name:
        print(f"note: the name of --save_path {arguments.save_path} does not say {arguments.subset}", file=sys.stderr)


def main(words: Sequence[str]) -> int:
    """Roll out as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: roll_out(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
