"""One process or many: what `accelerate launch`, `torchrun` and a plain `python` have in common.

`python -m core.training.launch --processes N script.py ...` starts N processes as `torchrun` does, but hands stop
signals on to them and ends with their exit code, so that a scheduler learns that they have saved.
"""

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from core.training.signals import STOPPED_EXIT_CODE, StopSignals

PRECISIONS = {"fp32": "no", "fp32-fast": "no", "bf16": "bf16", "fp16": "fp16"}
"""What accelerate calls them. "fp32-fast" keeps float32 tensors, but their products may round: to TF32 on GPUs, to bf16
on CPUs that can."""


def make_accelerator(precision: str = "fp32", find_unused_parameters: bool = False) -> Accelerator:
    """Placement, DDP and mixed precision of this process: GPUs with nccl where there are any, else CPU with gloo."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision 'fp16' needs a GPU: use 'bf16' or 'fp32' on the CPU")
    # On a machine without several GPUs `accelerate launch --num_processes N` announces a meeting point, but starts one.
    if {"ACCELERATE_USE_CPU", "MASTER_PORT"} <= os.environ.keys() and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "`accelerate launch` has started one process, whatever --num_processes says. Use `accelerate launch "
            "--multi_gpu --num_processes N` (also without GPUs), `torchrun --nproc_per_node=N`, or, in training, "
            "--processes N"
        )
    if precision == "fp32-fast":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.fp32_precision = "tf32"
        torch.backends.mkldnn.fp32_precision = "bf16"
    # Buffers are constants or are updated alike everywhere; sending them each step is waste. accelerate knows this
    # option by its older name only.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    ddp = DistributedDataParallelKwargs(
        find_unused_parameters=find_unused_parameters, broadcast_buffers=False, gradient_as_bucket_view=True
    )
    # Without this, accelerate takes several processes without GPUs for strangers that each train on their own.
    together_on_cpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    return Accelerator(cpu=together_on_cpu, mixed_precision=PRECISIONS[precision], kwargs_handlers=[ddp])


def is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def end_processes(accelerator: Accelerator) -> None:
    """Leave the group of processes, all at once: a connection that a peer closes early can abort the others at exit."""
    accelerator.wait_for_everyone()
    accelerator.end_training()


def launch_processes(count: int, arguments: list[str], nodes: int = 1, node: int = 0) -> int:
    """Run the script and options in `arguments` as `count` processes of this machine; their exit code.

    They meet at MASTER_PORT, or at a free port. Stop signals reach all of them. When one fails the others are killed.
    With several `nodes` each starts its own; they meet at MASTER_ADDR and MASTER_PORT, which is on node 0.
    """
    if nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ValueError("several nodes need MASTER_ADDR and MASTER_PORT: an address and a free port of node 0")
    shared = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        **os.environ,
        "WORLD_SIZE": str(nodes * count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    with _children() as processes:
        for rank in range(count):
            own = shared | {"RANK": str(node * count + rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen([sys.executable, *arguments], env=own, preexec_fn=_die_with_parent))
        while True:
            codes = [process.poll() for process in processes]
            failed = [code for code in codes if code not in (None, 0, STOPPED_EXIT_CODE)]
            if failed or None not in codes:
                return failed[0] if failed else max(codes)
            time.sleep(0.05)


def run_process(arguments: list[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> int:
    """Run the script and options in `arguments`; its exit code, 128 + the signal that killed it.

    Stop signals reach it in place of this process, so that Ctrl-C lets a training save.
    """
    with _children() as processes:
        command = [sys.executable, *arguments]
        processes.append(subprocess.Popen(command, cwd=cwd, env=env, preexec_fn=_die_with_parent))
        code = processes[0].wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _children() -> Iterator[list[subprocess.Popen]]:
    """A list to put processes into, which get the stop signals of this one, and are killed in the end."""
    processes: list[subprocess.Popen] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in StopSignals.SIGNALS}
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def _die_with_parent() -> None:
    """Have Linux kill this process if the one that started it is killed, so that a restart never runs beside it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main(arguments: list[str] | None = None) -> int:
    """Launch the script of a command line; its exit code, or as a shell says it, 128 + the signal that killed it."""
    parser = argparse.ArgumentParser(prog="python -m core.training.launch", allow_abbrev=False)
    parser.add_argument("--processes", type=int, required=True, help="processes on this node")
    parser.add_argument("--nodes", type=int, default=1, help="nodes, each with a launcher of its own")
    parser.add_argument("--node", type=int, help="number of this node (default: of the Slurm task that this is)")
    parser.add_argument("script", nargs=argparse.REMAINDER, help="Python file and its arguments")
    options = parser.parse_args(arguments)
    if not options.script:
        parser.error("expected a Python file and its arguments at the end")
    node = options.node
    if node is None:
        node = int(os.environ.get("SLURM_PROCID", "0")) if options.nodes > 1 else 0
    if options.processes < 1 or not 0 <= node < options.nodes:
        parser.error(
            "expected --processes above 0 and --node from 0 to --nodes - 1, "
            f"found {options.processes} processes, node {node} of {options.nodes}"
        )
    try:
        code = launch_processes(options.processes, options.script, options.nodes, node)
    except ValueError as error:
        parser.error(str(error))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
