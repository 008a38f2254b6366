"""What `python clevrtex/experiments/<model>.py` does."""

import os
import sys
from typing import Any

from clevrtex.framework.commandline import UsageError, call
from clevrtex.framework.options import Hyperparameters, RunOptions, describe, fill, settle_length
from core.outcome import complain, exit_code_of


def main(experiment: type[Hyperparameters]) -> None:
    """Run the command line of this process for an experiment.

    Exit codes: 0 done, 1 error, 2 misuse, 75 stopped and saved, 130 interrupted.
    """

    def run(**flags: Any) -> None:
        sys.exit(train(experiment, flags))

    def just_return_the_name(**flags: Any) -> str:
        """Print the name of the experiment: its folder below `output`."""
        from clevrtex.framework.continuing import experiment_name

        return experiment_name(fill(experiment, flags))

    run.__doc__ = f"Train {(experiment.__doc__ or experiment.__name__).strip()}"
    commands = {
        "run": describe(run, experiment, RunOptions),
        "just_return_the_name": describe(just_return_the_name, experiment),
    }
    try:
        call(commands, sys.argv[1:])
    except UsageError as error:
        sys.exit(complain(error, 2))


def train(experiment: type[Hyperparameters], flags: dict[str, Any]) -> int:
    """Train as told, starting further processes if need be; the exit code."""
    flags = settle_length(flags)
    hparams, options = fill(experiment, flags), fill(RunOptions, flags)
    processes = _settle_devices(options)
    from clevrtex.framework.training import train as train_here
    from core.training.launch import launch_processes
    from core.training.signals import STOPPED_EXIT_CODE

    if processes > 1 and "RANK" not in os.environ:
        return exit_code_of(lambda: launch_processes(processes, sys.argv))
    return exit_code_of(lambda: 0 if train_here(hparams, options, set(flags)) else STOPPED_EXIT_CODE)


def _settle_devices(options: RunOptions) -> int:
    """Show torch, before it is imported, the devices that `--gpus` names; how many processes `--ddp` wants here."""
    if options.dp:
        raise UsageError("--dp: DataParallel is not offered; use --ddp")
    if options.nodes > 1 and "RANK" not in os.environ:
        raise UsageError(
            f"--nodes {options.nodes}: start the same command on each with torchrun --nnodes {options.nodes} "
            "--nproc_per_node GPUS --rdzv_backend c10d --rdzv_endpoint HOST:29500"
        )
    gpus = options.gpus
    if isinstance(gpus, str):
        try:
            gpus = [int(number) for number in gpus.split(",")]
        except ValueError as error:
            raise UsageError(f"--gpus {gpus!r}: expected a number, or a list such as [0,2]") from error
    if isinstance(gpus, int) and gpus >= 0:
        gpus = list(range(gpus))
    if isinstance(gpus, list) and "RANK" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(number) for number in gpus)
    import torch

    if isinstance(gpus, list) and gpus and options.ddp:
        return len(gpus)
    if options.ddp:
        return max(1, torch.cuda.device_count())
    if isinstance(gpus, list) and len(gpus) > 1:
        raise UsageError(f"--gpus {options.gpus}: several devices need --ddp")
    return 1
