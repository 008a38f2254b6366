"""Train MarioNette as its authors' own program does, with its flags and files.

    python -m clevrtex.marionet.train --data 'clevrtex:full-crop-(128,128)' --checkpoint_dir output/mario

The same command continues a run that has not ended, with the same numbers. Below the folder of the run are
`model/epoch_<n>.pth` (the newest epoch), `model/training_end.pth`, the dictionaries of backgrounds of both in `bg/`,
`scalars.jsonl` and TensorBoard's events.
"""

import os
import sys
from collections.abc import Sequence

from clevrtex.marionet.commandline import training_arguments

MODULE = "clevrtex.marionet.train"


def main(words: Sequence[str]) -> int:
    """Train as the command line says. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped, 130 interrupted."""
    arguments = training_arguments(MODULE, __doc__, words)
    if arguments.cuda is False:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from clevrtex.marionet.training import folder_of, train
    from core.outcome import exit_code_of
    from core.training.launch import launch_processes
    from core.training.signals import STOPPED_EXIT_CODE

    def work() -> int:
        folder = folder_of(arguments)
        if arguments.gpus > 1 and "RANK" not in os.environ:
            return launch_processes(arguments.gpus, ["-m", MODULE, *words, "--checkpoint_dir", str(folder)])
        return 0 if train(arguments, folder) else STOPPED_EXIT_CODE

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
