"""Roll out the slots of Physion's videos from the frames before a contact, for the read-out.

    python slotdiffusion/vp_vqa/rollout_physion_slots.py --subset readout \\
        --params slotdiffusion/vp_vqa/configs/ldmslotformer_physion_params-res128.py \\
        --weight pretrained/savi_ldm_slotformer_physion_params-res128.pth

Reads physion_<subset>_slots.h5 (or .pkl, or <subset>_slots) in the folder of the configuration's slots_root. Writes,
for each split and video, as many frames of slots as a video has: the first 45, and predictions for each of the phases
that frame_offset makes. What readout_physion_params reads is the default of --save_path; a link <subset>_slots.h5 is
made beside the weight. The same command continues an interrupted one. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped
by a signal, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from core.outcome import exit_code_of
from slotformer.video_prediction.rollout_physion_slots import build_rollout_parser, check_arguments

SAVE_PATH = "./data/Physion/slots/rollout-physion_{}_slots.h5"


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    return build_rollout_parser("slotdiffusion/vp_vqa/rollout_physion_slots.py", __doc__, SAVE_PATH).parse(words)


def roll_out(arguments: Namespace, words: Sequence[str]) -> int:
    """Roll out as the command line says; the exit code."""
    from slotdiffusion import vp_vqa
    from slotdiffusion.vp_vqa.data import slots_of
    from slotdiffusion.vp_vqa.models import DYNAMICS
    from slotformer.framework.extraction import read_params
    from slotformer.video_prediction.rollouts import write_rollouts

    params = read_params(arguments, vp_vqa, DYNAMICS)
    check_arguments(arguments, params, SAVE_PATH)
    slots = slots_of(params.slots_root, arguments.subset)
    return write_rollouts(arguments, words, vp_vqa, params, slots, f"{arguments.subset}_slots")


def main(words: Sequence[str]) -> int:
    """Roll out as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: roll_out(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
