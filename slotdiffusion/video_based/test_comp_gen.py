"""Generate videos of slots that come from different test videos, and write them beside the real ones.

    python slotdiffusion/video_based/test_comp_gen.py \\
        --params slotdiffusion/video_based/configs/savi_ldm/savi_ldm_movid_params-res128.py \\
        --weight pretrained/savi_ldm_movid_params-res128.pth

Every slot of a video comes from another video of the whole set. eval/comp_vids/<index>/<frame>.png and
eval/gt_vids/... get the frames, generated and real, beside the weight, and <weight>-comp_gen-<name of the
configuration>.json the FVD between them, where I3D is at hand. With --save_video there are vis/<index>_comp.mp4
instead. Run with --ddp, or under torchrun or accelerate launch, processes share the videos. The same command continues
an interrupted one. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from core.outcome import exit_code_of
from slotdiffusion.framework.generation_flags import add_mixing_flag, build_video_parser


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_video_parser("slotdiffusion/video_based/test_comp_gen.py", __doc__)
    add_mixing_flag(parser)
    arguments = parser.parse(words)
    if arguments.as_original and not arguments.bs:
        parser.error("--as_original needs --bs: what the original generates depends on its batches")
    return arguments


def main(words: Sequence[str]) -> int:
    """Generate as the command line says; the exit code."""
    arguments = parse_arguments(words)

    def work() -> int:
        from slotdiffusion.framework.composition import compose
        from slotdiffusion.video_based.generation import VIDEOS

        return compose(arguments, words, VIDEOS)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
