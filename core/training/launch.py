"""One process or many: what `accelerate launch`, `torchrun` and a plain `python` have in common."""

import os
import subprocess
import sys

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(precision: str = "fp32", find_unused_parameters: bool = False) -> Accelerator:
    """Placement, DDP and mixed precision of this process: GPUs with nccl where there are any, else CPU with gloo."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision 'fp16' needs a GPU: use 'bf16' or 'fp32' on the CPU")
    # Buffers are functions of the parameters or are updated alike everywhere; sending them each step is waste.
    ddp = DistributedDataParallelKwargs(
        find_unused_parameters=find_unused_parameters, broadcast_buffers=False, gradient_as_bucket_view=True
    )
    return Accelerator(mixed_precision=PRECISIONS[precision], kwargs_handlers=[ddp])


def is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def launch_processes(count: int, arguments: list[str]) -> int:
    """Run the script and options in `arguments` as `count` processes of this machine under torchrun; its exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", *arguments]
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    return subprocess.run(command, env=environment, check=False).returncode
