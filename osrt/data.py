"""The data sets of a configuration, and the order in which training sees them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from core.data.cameras import cast_rays
from core.data.loader import Batch, TrainingLoader
from core.data.msn import MSN, interleaved_order
from core.data.nmr import NMR
from core.data.obsurf import ObSuRF
from core.spelling import nearest
from osrt.config import ConfigError, DataConfig

Source = ObSuRF | MSN | NMR
ARGUMENTS = {
    "clevr3d": ("downsample", "max_objects"),
    "obsurf_msn": ("downsample", "max_objects"),
    "osrt": ("shuffle",),
    "msn": ("shuffle",),
    "nmr": (),
}
"""What `data.kwargs` may hold, by data set."""


def open_split(data: DataConfig, split: str, *, full_scale: bool = False, max_len: int | None = None) -> Source:
    """A split (train, val, test) of the configured data set. Raises DataError, ConfigError for unknown `data.kwargs`.

    full_scale: targets are all pixels of the target views in place of `data.num_points` drawn ones.
    max_len: at most so many samples.
    """
    known = ARGUMENTS[data.dataset]
    for name in data.kwargs:
        if name not in known:
            has = f"has {', '.join(known)}" if known else "has none"
            raise ConfigError(f"data.kwargs.{name}: {data.dataset} {has}{nearest(name, known)}")
    options: dict[str, Any] = {"num_points": data.num_points, "full_scale": full_scale, "max_len": max_len}
    if data.dataset in ("clevr3d", "obsurf_msn"):
        return ObSuRF(data.folder, split, data.dataset, **options, **data.kwargs)
    if data.dataset == "nmr":
        return NMR(data.folder, split, **options)
    return MSN(data.folder, split, masks=data.dataset == "osrt", **options)


def training_loader(data: DataConfig, source: Source, batch_size: int, **options: Any) -> TrainingLoader:
    """Batches of `source` for one process; `options` are those of TrainingLoader.

    They are shuffled. MultiShapeNet with `shuffle: 0` comes in the order of the original, which is that of its shards.
    """
    if isinstance(source, MSN) and "shuffle" in data.kwargs and not data.kwargs["shuffle"]:
        return ShardOrderLoader(source, batch_size, augment=source.draw, **options)
    return TrainingLoader(source, batch_size, augment=source.draw, **options)


def training_batches(loader: TrainingLoader, first_step: int) -> Iterator[Batch]:
    """The batch of every step from `first_step` on, with its rays, on the device of the loader."""
    return map(cast_rays, loader.batches(first_step))


class ShardOrderLoader(TrainingLoader):
    """Walks through MultiShapeNet in the same order in every epoch: that in which tf.data interleaves the shards."""

    def indices(self, first_step: int) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, samples of this process) of every step from `first_step` on."""
        everything = interleaved_order(self.source.shard_lengths)
        order = everything[everything < len(self.source)]
        epoch, begin = divmod(first_step, self.batches_per_epoch)
        while True:
            for index in range(begin, self.batches_per_epoch):
                start = (index * self.num_processes + self.process_index) * self.batch_size
                yield epoch, order[start : start + self.batch_size]
            epoch, begin = epoch + 1, 0
