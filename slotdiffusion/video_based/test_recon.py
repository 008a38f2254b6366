"""Score and write what a model's slots generate of their own videos, those of the test split.

    python slotdiffusion/video_based/test_recon.py \\
        --params slotdiffusion/video_based/configs/savi_ldm/savi_ldm_movid_params-res128.py \\
        --weight pretrained/savi_ldm_movid_params-res128.pth

eval/recon_vids/<index>/<frame>.png and eval/gt_vids/... get the frames, generated and real, beside the weight; scores
go to <weight>-recon-<name of the configuration>.json. With --save_video there are vis/<index>_recon.mp4 and _gt.mp4
instead. Run with --ddp, or under torchrun or accelerate launch, processes share the videos. The same command continues
an interrupted one. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from core.outcome import exit_code_of
from slotdiffusion.framework.generation_flags import build_video_parser


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    return build_video_parser("slotdiffusion/video_based/test_recon.py", __doc__).parse(words)


def main(words: Sequence[str]) -> int:
    """Generate and score as the command line says; the exit code."""
    arguments = parse_arguments(words)

    def work() -> int:
        from slotdiffusion.framework.reconstruction import reconstruct
        from slotdiffusion.video_based.generation import VIDEOS

        return reconstruct(arguments, words, VIDEOS)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
