"""Slots of PHYRE's trials, one file each, made by several jobs and processes in spite of interruptions."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from core.data.loader import Batch, BatchSource
from core.data.slot_writer import save_array
from core.data.slots import SlotFolder, Slots
from slotformer.framework.extraction import Trained, link_beside


def write_trials(
    trained: Trained,
    arguments: Namespace,
    source: BatchSource,
    path: Path,
    split: str,
    batch_size: int,
    slots_of: Callable[[Batch, np.ndarray], Sequence[Slots]],
    what: str,
) -> bool:
    """Write what `slots_of(batch, trials)` gives to files in `path`, which are linked to beside the weight.

    Only those that are missing of part `split` of `total_split` of the trials (all if `split` is -1, as the flags say);
    whoever makes the last one also writes the index. False if a signal stopped it.
    """
    if trained.is_main:
        trained.provenance.claim(path)
    trained.accelerator.wait_for_everyone()
    folder = SlotFolder(path, len(source))
    part = range(len(source))
    if arguments.split >= 0:
        bounds = np.linspace(0, len(source), arguments.total_split + 1).astype(int)
        part = range(bounds[arguments.split], bounds[arguments.split + 1])
    missing = [trial for trial in folder.missing() if trial in part]
    trained.accelerator.wait_for_everyone()  # all processes share out the same list

    def write(batch: Batch, trials: np.ndarray) -> None:
        for trial, slots in zip(trials, slots_of(batch, trials)):
            save_array(folder.file(trial), slots)

    if not trained.go_through(source, missing, batch_size, write, f"{what} of {split}", arguments.cpus):
        return False
    trained.accelerator.wait_for_everyone()
    if trained.is_main:
        left = len(folder.missing())
        if not left:
            folder.write_index()
        print(f"{split}: {len(source) - left}/{len(source)}, in {path}{'' if left else ' with lengths.npy'}")
        if arguments.split <= 0:
            link_beside(arguments.weight, f"{split}_slots", path)
    return True
