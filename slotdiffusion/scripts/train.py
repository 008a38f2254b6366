"""Train a model of SlotDiffusion from a configuration file.

    python slotdiffusion/scripts/train.py --task video_based \\
        --params slotdiffusion/video_based/configs/savi_ldm/savi_ldm_movid_params-res128.py

The run lies in checkpoint/<name of the file>; the same command continues it from its newest checkpoint. Exit codes: 0
done, 1 error, 2 misuse, 75 stopped by a signal after saving, 130 interrupted.
"""

import sys
from collections.abc import Sequence

from core.outcome import exit_code_of
from slotformer.scripts.train import parse_arguments, train

SCRIPT = "slotdiffusion/scripts/train.py"
TASKS = ("img_based", "video_based", "vp_vqa")


def main(words: Sequence[str]) -> int:
    """Train as the command line says; the exit code."""
    arguments = parse_arguments(words, SCRIPT, __doc__, TASKS)
    return exit_code_of(lambda: train(arguments, words, "slotdiffusion"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
