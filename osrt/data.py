"""The data sets of a configuration, and the order in which training sees them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from core.data.cameras import cast_rays
from core.data.loader import Batch, TrainingLoader
from core.data.msn import MSN, NUM_INPUTS, interleaved_order
from core.data.nmr import NMR
from core.data.obsurf import ObSuRF
from core.spelling import nearest
from osrt.config import ConfigError, DataConfig
from osrt.options import complaint

Source = ObSuRF | MSN | NMR
OF_OBSURF = {"downsample": int | None, "max_objects": int, "canonical_view": bool}
OF_MSN = {"shuffle": int | bool | None}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "clevr3d": OF_OBSURF,
    "obsurf_msn": OF_OBSURF,
    "osrt": OF_MSN,
    "msn": OF_MSN,
    "nmr": {},
}
"""What `data.kwargs` may hold, by data set."""
READERS = {"clevr3d": ObSuRF, "obsurf_msn": ObSuRF, "osrt": MSN, "msn": MSN, "nmr": NMR}
PUBLISHED_SIZES = {
    "clevr3d": (240, 320),
    "obsurf_msn": (240, 320),
    "osrt": (128, 128),
    "msn": (128, 128),
    "nmr": (64, 64),
}
"""Height and width of the pictures."""


def open_split(data: DataConfig, split: str, *, full_scale: bool = False, max_len: int | None = None) -> Source:
    """A split (train, val, test) of the configured data set. Raises DataError, ConfigError for wrong `data.kwargs`.

    full_scale: targets are all pixels of the target views in place of `data.num_points` drawn ones.
    max_len: at most so many samples.
    """
    check_arguments(data)
    options: dict[str, Any] = {"num_points": data.num_points, "full_scale": full_scale, "max_len": max_len}
    if data.dataset in ("clevr3d", "obsurf_msn"):
        return ObSuRF(data.folder, split, data.dataset, **options, **data.kwargs)
    if data.dataset == "nmr":
        return NMR(data.folder, split, **options)
    return MSN(data.folder, split, masks=data.dataset == "osrt", **options)


def check_arguments(data: DataConfig) -> None:
    """Raises ConfigError for `data.kwargs` that the data set has not, and for values that they cannot have."""
    known = ARGUMENTS[data.dataset]
    for name, value in data.kwargs.items():
        if name not in known:
            has = f"has {', '.join(known)}" if known else "has none"
            raise ConfigError(f"data.kwargs.{name}: {data.dataset} {has}{nearest(name, known)}")
        if wrong := complaint(value, known[name], least=0):
            raise ConfigError(f"data.kwargs.{name} {wrong}")


def inputs_of(source: Source) -> dict[str, Any]:
    """What a run record says of the inputs.

    Their number in a scene, which of their pixels the model is given, and whether in the frame of the input view.
    """
    number, stride = NUM_INPUTS if isinstance(source, MSN) else 1, getattr(source, "stride", 1)
    return _inputs(source.image_size, number, stride, source.canonical_view)


def published_inputs(data: DataConfig) -> dict[str, Any]:
    """What `inputs_of` says of the published data, without opening any. Raises ConfigError."""
    check_arguments(data)
    height, width = PUBLISHED_SIZES[data.dataset]
    stride = 2 ** (data.kwargs.get("downsample") or 0)
    number = NUM_INPUTS if data.dataset in ("osrt", "msn") else 1
    return _inputs((height, width), number, stride, data.kwargs.get("canonical_view", False))


def _inputs(size: tuple[int, int], num_inputs: int, stride: int, canonical_view: bool) -> dict[str, Any]:
    fields = {"kind": "views", "size": list(size), "num_inputs": num_inputs, "stride": stride}
    return fields | {"canonical_view": canonical_view}


def render_range(data: DataConfig) -> tuple[float, float]:
    """Distances from a camera at which the scenes of a data set begin and end."""
    return READERS[data.dataset].render_range


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
