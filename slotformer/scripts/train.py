"""Train a model of SlotFormer from a configuration file.

    python slotformer/scripts/train.py --task base_slots --params slotformer/base_slots/configs/savi_obj3d_params.py

The run lies in checkpoint/<name of the file>; the same command continues it from its newest checkpoint. Exit codes: 0
done, 1 error, 2 misuse, 75 stopped by a signal after saving, 130 interrupted.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.commandline import StrictParser, natural, positive
from core.outcome import exit_code_of
from slotformer.framework.params import BaseParams, ParamsError, file_of, load_params, parse_overrides

SCRIPT = "slotformer/scripts/train.py"
TASKS = ("base_slots", "video_prediction", "clevrer_vqa", "physion_vqa", "phyre_planning")


def parse_arguments(
    words: Sequence[str], script: str = SCRIPT, description: str = __doc__, tasks: Sequence[str] = TASKS
) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser(script, description)
    parser.add_argument("--task", choices=tasks, default=tasks[0], help=f"what to train (default: {tasks[0]})")
    parser.add_argument("--params", required=True, metavar="FILE", help="configuration, with or without .py")
    what = "checkpoint to continue, ours or the original's; not used if the run has one of its own"
    parser.add_argument("--weight", type=Path, metavar="FILE", help=what)
    what = "checkpoint whose weights to start from, at step 0; not used if the run has one of its own"
    parser.add_argument("--init", type=Path, metavar="FILE", help=what)
    what = "another value for a key of the configuration, as in lr=2e-4 or slot_dict.num_slots=5"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=what)
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--fp16", action="store_true", help="mixed precision with float16 (GPU)")
    precision.add_argument("--bf16", action="store_true", help="mixed precision with bfloat16")
    what = "one process per GPU; without GPUs as many as the configuration's `gpus`"
    parser.add_argument("--ddp", action="store_true", help=what)
    parser.add_argument("--cudnn", action="store_true", help="let cuDNN search for its fastest algorithms")
    parser.add_argument("--local_rank", type=int, default=0, help="as older launchers pass it; has no effect")
    parser.add_argument("--seed", type=natural, help="of weights, noise and the order of the data (default: 0)")
    what = "train so many runs with seeds 0, 1, ... one after the other, and compare them in a table"
    parser.add_argument("--seeds", type=positive, metavar="N", help=what)
    parser.add_argument("--name", help="of the run (default: that of the configuration)")
    parser.add_argument("--resident", action="store_true", help="keep all data on the device")
    parser.add_argument("--wandb", action="store_true", help="log to Weights & Biases, too")
    parser.set_defaults(tasks=tasks)
    arguments = parser.parse(words)
    if arguments.seeds and (arguments.seed is not None or arguments.weight):
        parser.error("--seeds starts runs of its own seeds: leave --seed and --weight out")
    if arguments.init and arguments.weight:
        parser.error("--weight continues a training and --init begins one: give one of them")
    return arguments


def train(arguments: Namespace, words: Sequence[str], package: str) -> int:
    """Train as the command line says; the exit code."""
    file = file_of(arguments.params)
    name = arguments.name or file.stem
    if arguments.seeds:
        from slotformer.framework.seeds import train_seeds

        return train_seeds(arguments.seeds, name, [sys.argv[0], *words])
    import importlib

    from core.training.launch import launch_processes
    from core.training.signals import STOPPED_EXIT_CODE
    from slotformer.framework.training import Options
    from slotformer.framework.training import train as train_here

    overrides = parse_overrides(arguments.set)
    task = importlib.import_module(f"{package}.{arguments.task}")
    try:
        params = load_params(file, task.Keys, overrides)
    except ParamsError as error:
        if other := other_task(file, package, arguments.task, arguments.tasks, overrides):
            raise ParamsError(f"{file}: a configuration of another task: give --task {other}") from error
        raise
    if arguments.ddp and "RANK" not in os.environ and (processes := number_of_processes(params)) > 1:
        return launch_processes(processes, [sys.argv[0], *words])
    options = Options(
        name=name,
        params_file=file,
        weight=arguments.weight,
        init=arguments.init,
        precision=precision_of(arguments),
        cudnn=arguments.cudnn,
        seed=arguments.seed,
        resident=arguments.resident,
        wandb=arguments.wandb,
    )
    return 0 if train_here(task, params, options) else STOPPED_EXIT_CODE


def other_task(file: Path, package: str, task: str, tasks: Sequence[str], overrides: Mapping[str, Any]) -> str | None:
    """The task beside `task` whose configuration the file seems to be: it lies in its folder, or has its keys."""
    import importlib

    if named := [name for name in tasks if name in file.resolve().parts]:
        return named[0] if named[0] != task else None
    for name in tasks:
        try:
            load_params(file, importlib.import_module(f"{package}.{name}").Keys, overrides)
            return name
        except ParamsError:
            continue
    return None


def number_of_processes(params: BaseParams) -> int:
    """One per GPU of this machine; without GPUs what the configuration is written for."""
    import torch

    return torch.cuda.device_count() or params.gpus


def precision_of(arguments: Namespace) -> str:
    """What --fp16 and --bf16 ask for, as far as there is a device for it."""
    import torch

    if arguments.fp16 and not torch.cuda.is_available():
        if int(os.environ.get("RANK", "0")) == 0:
            print("note: --fp16 needs a GPU; training in float32", file=sys.stderr)
        return "fp32"
    return "fp16" if arguments.fp16 else "bf16" if arguments.bf16 else "fp32"


def main(words: Sequence[str]) -> int:
    """Train as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: train(arguments, words, "slotformer"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
