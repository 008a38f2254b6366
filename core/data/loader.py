"""Batches whose content is a pure function of (seed, epoch, batch index), on any number of workers and processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from core.data.errors import DataError
from core.nn.noise import derive_seed
from core.training.signals import leave_stop_signals_to_parent

Batch = dict[str, Tensor]
Augment = Callable[[Batch, np.random.Generator], Batch]
"""Changes one sample (tensors without a batch axis) by draws from its generator."""


@runtime_checkable
class BatchSource(Protocol):
    """A data set: reads many samples at once, pictures as uint8."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Batch: ...


@runtime_checkable
class VariedSource(BatchSource, Protocol):
    """One whose samples training sees differently in every epoch, such as clips of videos from a random frame on."""

    def read_varied(self, indices: np.ndarray, generators: Sequence[np.random.Generator]) -> Batch: ...


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of `size` samples that epoch `epoch` walks through."""
    return np.random.default_rng(derive_seed(seed, epoch)).permutation(size)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch; uint8 `image` and `video` become float32 in [0, 1] on the device."""
    moved = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    for key in ("image", "video"):
        if key in moved and moved[key].dtype == torch.uint8:
            moved[key] = moved[key].float().div_(255)
    return moved


class TrainingLoader:
    """Endless shuffled batches for one process of a training run.

    Step s of the run takes global batch s: slice s mod (batches per epoch) of the order of epoch s div (batches per
    epoch), of which this process takes its `batch_size`. Incomplete batches at the end of an epoch are left out. Every
    augmentation, and what a VariedSource draws, comes from a generator keyed by (seed, epoch, sample). Nothing needs to
    be stored to resume.

    `resident` keeps the whole data set on `device` as uint8: same batches, no reading.
    """

    def __init__(
        self,
        source: BatchSource,
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        process_index: int = 0,
        num_processes: int = 1,
        num_workers: int = 0,
        resident: bool = False,
        augment: Augment | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batches of {batch_size} samples: expected at least 1")
        if len(source) < batch_size * num_processes:
            raise DataError(
                f"{getattr(source, 'path', type(source).__name__)}: {len(source)} samples are fewer than one global "
                f"batch of {batch_size} x {num_processes}. Lower the batch size or use more data"
            )
        if resident and (augment or isinstance(source, VariedSource)):
            raise ValueError("resident data cannot be augmented sample by sample: set resident=False")
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.process_index = process_index
        self.num_processes = num_processes
        self.num_workers = num_workers
        self.augment = augment
        self.batches_per_epoch = len(source) // (batch_size * num_processes)
        self._resident = to_resident(source, device) if resident else None

    def indices(self, first_step: int) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, samples of this process) of every step from `first_step` on."""
        epoch, begin = divmod(first_step, self.batches_per_epoch)
        while True:
            order = epoch_order(len(self.source), self.seed, epoch)
            for index in range(begin, self.batches_per_epoch):
                start = (index * self.num_processes + self.process_index) * self.batch_size
                yield epoch, order[start : start + self.batch_size]
            epoch, begin = epoch + 1, 0

    def batches(self, first_step: int) -> Iterator[Batch]:
        """The batch of every step from `first_step` on, on the device."""
        if self._resident is not None:
            for _, chosen in self.indices(first_step):
                rows = torch.from_numpy(chosen).to(self.device, non_blocking=True)
                yield to_device({key: value[rows] for key, value in self._resident.items()}, self.device)
        reader = _Reader(self.source, self.seed, self.augment)
        loader = DataLoader(
            reader,
            batch_sampler=self.indices(first_step),
            num_workers=self.num_workers,
            collate_fn=_as_is,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if self.num_workers else None,
            worker_init_fn=leave_stop_signals_to_parent,
            generator=torch.Generator(),  # else starting it would draw from the global one
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield to_device(batch, self.device)


class _Reader:
    """What DataLoader's workers hold: a whole batch is one read.

    An error is handed over as a value: one that a worker raises reaches the user as the text of the worker's traceback.
    """

    def __init__(self, source: BatchSource, seed: int, augment: Augment | None):
        self.source = source
        self.seed = seed
        self.augment = augment

    def __getitems__(self, key: tuple[int, np.ndarray]) -> Batch | DataError:
        epoch, indices = key
        generators = [np.random.default_rng(derive_seed(self.seed, epoch, int(index))) for index in indices]
        try:
            if isinstance(self.source, VariedSource):
                batch = self.source.read_varied(indices, generators)
            else:
                batch = self.source.read(indices)
        except DataError as error:
            return error
        except (OSError, ValueError, IndexError) as error:
            where = getattr(self.source, "path", type(self.source).__name__)
            return DataError(f"{where}: samples {indices.tolist()} cannot be read ({error})")
        if self.augment is None:
            return batch
        samples = [
            self.augment({key: value[row] for key, value in batch.items()}, generator)
            for row, generator in enumerate(generators)
        ]
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}

    def __getitem__(self, key: Any) -> Batch | DataError:
        return self.__getitems__(key)


def _as_is(batch: Batch | DataError) -> Batch | DataError:
    return batch


def to_resident(source: BatchSource, device: torch.device) -> Batch:
    """The whole data set on `device`, pictures as uint8."""
    return {key: value.to(device) for key, value in source.read(np.arange(len(source))).items()}


def evaluation_batches(
    source: BatchSource, batch_size: int, device: torch.device, limit: int | None = None
) -> Iterator[Batch]:
    """The first `limit` samples in order, none skipped; the last batch may be smaller."""
    size = len(source) if limit is None else min(limit, len(source))
    for start in range(0, size, batch_size):
        yield to_device(source.read(np.arange(start, min(start + batch_size, size))), device)
