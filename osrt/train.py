"""Train OSRT or SRT as a configuration says, in the folder of the configuration.

    python osrt/train.py osrt/runs/clevr3d/osrt/config.yaml
    torchrun --standalone --nproc_per_node=8 osrt/train.py osrt/runs/clevr3d/osrt/config.yaml

The same command continues the run from model.pt, also from one of the original code. Exit codes: 0 done, 1 error, 2
misuse, 75 stopped by a signal after saving, 130 interrupted.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from core.commandline import StrictParser, natural, positive
from core.outcome import exit_code_of

SCRIPT = "osrt/train.py"


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser(SCRIPT, __doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file; the run is written beside it")
    what = "iterations in place of training.max_it"
    parser.add_argument("--exit_after", type=natural, metavar="N", help=what)
    parser.add_argument("--test", action="store_true", help="evaluate on the test split, not on val")
    parser.add_argument("--evalnow", action="store_true", help="evaluate before the first step")
    parser.add_argument("--visnow", action="store_true", help="draw pictures before the first step")
    parser.add_argument("--wandb", action="store_true", help="log to Weights & Biases, too")
    parser.add_argument("--max_eval", type=positive, metavar="N", help="evaluate on so many samples at most")
    parser.add_argument("--full_scale", action="store_true", help="evaluate all rays of the target views, in chunks")
    parser.add_argument("--print_model", action="store_true", help="print modules and parameters")
    parser.add_argument("--rtpt", metavar="INITIALS", help="say in the title of the process how long the run takes")
    what = "another value for a key of the configuration, as in data.num_points=512"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=what)
    parser.add_argument("--seed", type=natural, help="of weights, rays and the order of the data (default: 0)")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--fp16", action="store_true", help="mixed precision with float16 (GPU)")
    precision.add_argument("--bf16", action="store_true", help="mixed precision with bfloat16")
    what = "compute activations again in the backward pass: less memory, the same numbers"
    parser.add_argument("--checkpointing", action="store_true", help=what)
    what = "send each process's share of a batch through in N equal parts: less memory, the same gradient"
    parser.add_argument("--accumulate", type=positive, default=1, metavar="N", help=what)
    parser.add_argument("--processes", type=positive, default=1, metavar="N", help="start N processes on this machine")
    parser.add_argument("--local_rank", type=int, default=0, help="as older launchers pass it; has no effect")
    return parser.parse(words)


def train(arguments: Namespace) -> int:
    """Train as the command line says; the exit code."""
    from osrt.config import load_config

    config = load_config(arguments.config, arguments.set)
    from core.training.signals import STOPPED_EXIT_CODE
    from osrt.training import Options
    from osrt.training import train as train_here

    options = Options(
        exit_after=arguments.exit_after,
        on_test=arguments.test,
        evaluate_now=arguments.evalnow,
        visualise_now=arguments.visnow,
        max_eval=arguments.max_eval,
        full_scale=arguments.full_scale,
        print_model=arguments.print_model,
        wandb=arguments.wandb,
        rtpt=arguments.rtpt,
        precision="fp16" if arguments.fp16 else "bf16" if arguments.bf16 else "fp32",
        seed=arguments.seed,
        checkpointing=arguments.checkpointing,
        accumulate=arguments.accumulate,
    )
    return 0 if train_here(config, arguments.config.parent, options) else STOPPED_EXIT_CODE


def main(words: Sequence[str]) -> int:
    """Train as the command line says; the exit code, 128 + the signal's number if one killed a process."""
    arguments = parse_arguments(words)
    if arguments.processes > 1 and "RANK" not in os.environ:
        from core.training.launch import launch_processes

        code = launch_processes(arguments.processes, [sys.argv[0], *words])
        return code if code >= 0 else 128 - code
    return exit_code_of(lambda: train(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
