"""Generate pictures of slots that come from different test pictures, and write them beside the real ones.

    python slotdiffusion/img_based/test_comp_gen.py \\
        --params slotdiffusion/img_based/configs/sa_ldm/sa_ldm_clevrtex_params-res128.py \\
        --weight pretrained/sa_ldm_clevrtex_params-res128.pth

Every slot of a picture comes from another picture of the whole set. eval/comp_imgs/<index>.png and eval/gt_imgs/... get
the pictures, generated and real, beside the weight, and <weight>-comp_gen-<name of the configuration>.json the FID
between them, where Inception is at hand. Run with --ddp, or under torchrun or accelerate launch, processes share the
pictures. The same command continues an interrupted one. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal,
130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from core.outcome import exit_code_of
from slotdiffusion.framework.generation_flags import add_mixing_flag, build_picture_parser


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_picture_parser("slotdiffusion/img_based/test_comp_gen.py", __doc__)
    add_mixing_flag(parser)
    return parser.parse(words)


def main(words: Sequence[str]) -> int:
    """Generate as the command line says; the exit code."""
    arguments = parse_arguments(words)

    def work() -> int:
        from slotdiffusion.framework.composition import compose
        from slotdiffusion.img_based.generation import PICTURES

        return compose(arguments, words, PICTURES)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
