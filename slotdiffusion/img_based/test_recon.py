"""Score and write what a model's slots generate of their own pictures, those of the test split.

    python slotdiffusion/img_based/test_recon.py \\
        --params slotdiffusion/img_based/configs/sa_ldm/sa_ldm_clevrtex_params-res128.py \\
        --weight pretrained/sa_ldm_clevrtex_params-res128.pth

eval/recon_imgs/<index>.png and eval/gt_imgs/... get the pictures, generated and real, beside the weight; scores go to
<weight>-recon-<name of the configuration>.json, with the FID where Inception is at hand. Run with --ddp, or under
torchrun or accelerate launch, processes share the pictures. The same command continues an interrupted one. Exit codes:
0 done, 1 error, 2 misuse, 75 stopped by a signal, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from core.outcome import exit_code_of
from slotdiffusion.framework.generation_flags import build_picture_parser


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    return build_picture_parser("slotdiffusion/img_based/test_recon.py", __doc__).parse(words)


def main(words: Sequence[str]) -> int:
    """Generate and score as the command line says; the exit code."""
    arguments = parse_arguments(words)

    def work() -> int:
        from slotdiffusion.framework.reconstruction import reconstruct
        from slotdiffusion.img_based.generation import PICTURES

        return reconstruct(arguments, words, PICTURES)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
