"""How others than this project start two processes of a command."""

import sys

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
# Port 0: a free one, for tests run side by side.
ACCELERATE = (
    *(sys.executable, "-m", "accelerate.commands.launch"),
    *("--multi_gpu", "--num_processes=2", "--main_process_port=0"),
)
