"""Where the time of a training step goes."""

from pathlib import Path

import torch

from core.data.loader import Batch

FIRST, LAST = 5, 15
ROWS = 40


class StepProfiler:
    """A hook for every step that profiles ten early ones and writes the table of operations to `path`.

    Of a training that ends before, the table is of fewer steps; `close` has to be called in any case, for torch crashes
    a process that exits while it is profiled.
    """

    def __init__(self, path: Path):
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.path = path
        self._profiler = torch.profiler.profile(activities=activities, record_shapes=True)
        self._seen = 0
        self._runs = False

    def __call__(self, step: int, batch: Batch) -> None:
        self._seen += 1
        if self._seen == FIRST:
            self._profiler.start()
            self._runs = True
        elif self._seen == LAST:
            self.close()

    def close(self) -> None:
        """Write the table of the steps profiled so far; say so if there are none."""
        if self._runs:
            self._profiler.stop()
        if self._seen <= FIRST:
            print(f"--profile: nothing is profiled before step {FIRST + 1} of a run, and this one had {self._seen}")
        elif self._runs:
            table = self._profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=ROWS)
            self.path.write_text(table)
        self._runs = False
