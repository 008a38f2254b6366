"""Where the time of a training step goes."""

from collections.abc import Callable
from pathlib import Path

import torch

from core.data.loader import Batch

FIRST, LAST = 5, 15
ROWS = 40


def profiler_hook(path: Path) -> Callable[[int, Batch], None]:
    """A hook for every step that profiles ten early ones and writes the table of operations to `path`."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=activities, record_shapes=True)
    seen: list[int] = []

    def hook(step: int, batch: Batch) -> None:
        seen.append(step)
        if len(seen) == FIRST:
            profiler.start()
        elif len(seen) == LAST:
            profiler.stop()
            path.write_text(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=ROWS))

    return hook
