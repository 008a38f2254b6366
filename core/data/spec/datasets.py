"""Every data set of the benchmark by name: its variants and sizes, where it lies, and how it is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clevrtex.framework.sources import Framed, first_frames, input_views
from core.data.clevr import REMEDY as CLEVR_REMEDY
from core.data.clevr import Clevr
from core.data.clevrtex import SOURCE as CLEVRTEX_SOURCE
from core.data.clevrtex import VARIANTS as CLEVRTEX_VARIANTS
from core.data.clevrtex import ClevrTex
from core.data.errors import DataError
from core.data.framing import Framing
from core.data.loader import BatchSource
from core.data.movi import LEVELS, Movi
from core.data.multi_mnist import REMEDY as MULTI_MNIST_REMEDY
from core.data.multi_mnist import MultiMnist
from core.data.multi_object_h5 import MultiObjectH5
from core.data.obsurf import NUM_LABELS, ObSuRF
from core.data.pascal import SOURCE as PASCAL_SOURCE
from core.data.pascal import Pascal

ROOTS = (Path("ool_data"), Path("data"))
"""Where data are looked for: the original's folder, and the one that the README makes data in."""
SPLITS = ("train", "val", "test")
HELD_OUT = 10  # the last one in so many training samples of an .h5 file are for validation


class MissingData(DataError):
    """A data set is in none of the places where it is looked for."""


@dataclass(frozen=True)
class Request:
    """One split of a data set as it is wanted; `find(*places)` gives the first place there is below the data folders.

    `masks`: label maps are to be read.
    """

    variant: str | None
    split: str
    framing: Framing
    masks: bool
    find: Callable[..., Path]

    @property
    def needs_labels(self) -> bool:
        return self.masks or self.framing.only_object


@dataclass(frozen=True)
class DataSet:
    """One name of a data string.

    size: height and width of the published pictures; None if they differ.
    remedy: where the data come from, `{variant}` stands for the one asked for.
    default_variant: meant if none is given; without it one of `variants` must be given.
    crop: fraction of the shorter side that the flag `crop` keeps.
    antialias: how pictures are resized, see `Framing`.
    short_name: in the names of experiments.
    """

    open: Callable[[Request], BatchSource]
    size: tuple[int, int] | None
    remedy: str
    variants: tuple[str, ...] = ()
    default_variant: str | None = None
    crop: float = 1.0
    antialias: bool = False
    has_masks: bool = True
    short_name: str = ""


def open_data_set(
    name: str, variant: str | None, split: str, root: Path | None, framing: Framing, masks: bool
) -> BatchSource:
    """One split of a data set below `root`, or below one of ROOTS.

    Raises ValueError for a split it does not have, and MissingData, naming all places looked at, if it is not there.
    """
    data_set = SETS[name]
    variant = variant or data_set.default_variant

    def find(*places: str) -> Path:
        candidates = [folder / place for place in places for folder in (ROOTS if root is None else (root,))]
        if root is not None and root.name in places:
            candidates.append(root)
        for path in candidates:
            if path.exists():
                return path
        raise MissingData(
            f"no data set {name}{f':{variant}' if variant else ''}: looked for {', '.join(map(str, candidates))} "
            f"from {Path.cwd()}. {data_set.remedy.format(variant=variant)}"
        )

    return data_set.open(Request(variant, split, framing, masks, find))


def _open_clevr(request: Request, most_objects: int | None = None) -> Clevr:
    folder = request.find("clevr_with_masks")
    return Clevr(folder, request.split, request.framing, request.masks, most_objects)


def _open_clevrtex(request: Request) -> ClevrTex:
    folder = request.find(f"clevrtex_{request.variant}")
    return ClevrTex(folder, request.variant, request.split, request.framing, request.masks)


def _open_multi_mnist(request: Request) -> Framed:
    source = MultiMnist(request.find("multi_mnist.npz"), request.split)
    return Framed(source, range(len(source)), request.framing)


def _open_pascal(request: Request) -> Pascal:
    folder = request.find("VOCdevkit/VOC2012", "VOC2012")
    return Pascal(folder, request.split, request.framing, request.masks)


def _open_h5(request: Request, folder: str, train: str, test: str) -> Framed:
    """`train` and `test` are names of files; the last training samples are for validation."""
    group, file = ("test", test) if request.split == "test" else ("train", train)
    file = file.format(variant=request.variant)
    path = request.find(f"{folder}/{file}", file)
    source = MultiObjectH5(path, group, masks=request.needs_labels)
    held_out = -(-len(source) // HELD_OUT)
    rows = {"train": range(len(source) - held_out), "val": range(len(source) - held_out, len(source))}
    return Framed(source, rows.get(request.split, range(len(source))), request.framing, request.masks)


def _open_movi(request: Request) -> Framed:
    root = request.find(f"MOVi-{request.variant.capitalize()}").parent
    source = Movi(root, request.variant, request.split, num_frames=1, masks=request.needs_labels)
    return Framed(source, range(len(source)), request.framing, request.masks, first_frames)


def _open_views(request: Request, kind: str) -> Framed:
    source = ObSuRF(request.find(kind), request.split, kind, max_objects=NUM_LABELS[kind] - 1)
    return Framed(source, range(len(source)), request.framing, request.masks, input_views)


def _h5(name: str, size: tuple[int, int], remedy: str, suffix: str = "", **options) -> DataSet:
    files = {"folder": name, "train": f"{name}{suffix}.h5", "test": f"{name}{suffix}_test.h5"}
    return DataSet(partial(_open_h5, **files), size, remedy, **options)


SETS = {
    "clevr": DataSet(_open_clevr, (240, 320), CLEVR_REMEDY, crop=0.8, short_name="cle"),
    "clevr6": DataSet(partial(_open_clevr, most_objects=6), (240, 320), CLEVR_REMEDY, crop=0.8),
    "clevrtex": DataSet(
        _open_clevrtex,
        (240, 320),
        f"{CLEVRTEX_SOURCE}; one like it is made by `python tools/make_data.py clevrtex --root data --scenes 1000`, "
        "other variants than full by their names, such as clevrtex_pbg",
        variants=CLEVRTEX_VARIANTS,
        crop=0.8,
        antialias=True,
        short_name="clt",
    ),
    "mnist": DataSet(_open_multi_mnist, (50, 50), MULTI_MNIST_REMEDY, has_masks=False),
    "pascal": DataSet(_open_pascal, None, PASCAL_SOURCE),
    "tetrominoes": _h5(
        "tetrominoes",
        (35, 35),
        "Make it with `python tools/make_data.py tetrominoes --root data/tetrominoes --train 60000 --test 320`",
    ),
    "multi_dsprites": _h5(
        "multi_dsprites",
        (64, 64),
        "Make it with `python tools/make_data.py multi_dsprites_{variant} --root data/multi_dsprites --train 60000 "
        "--test 320`",
        suffix="_{variant}",
        variants=("binarized", "colored_on_grayscale", "colored_on_colored"),
        default_variant="colored_on_grayscale",
    ),
    "objects_room": _h5(
        "objects_room",
        (64, 64),
        "Write the files as the README has it under `Your own data`, from gs://multi-object-datasets/objects_room",
        variants=("train",),
        default_variant="train",
    ),
    "clevr3d": DataSet(
        partial(_open_views, kind="clevr3d"),
        (240, 320),
        "Make it with `python tools/make_data.py clevr3d --root data --scenes 1000`, or see github.com/stelzner/obsurf",
    ),
    "obsurf_msn": DataSet(
        partial(_open_views, kind="obsurf_msn"),
        (240, 320),
        "Make it with `python tools/make_data.py obsurf_msn --root data --scenes 1000`, or see "
        "github.com/stelzner/obsurf",
    ),
    "movi": DataSet(
        _open_movi,
        (128, 128),
        "Make it with `python tools/make_data.py movi-{variant} --root data --scenes 100`, for the levels d, e, solid "
        "and tex, or fetch it with slotdiffusion/scripts/data_utils/download_movi.py",
        variants=tuple(level.lower() for level in LEVELS),
    ),
}
"""By their names in data strings."""
ALIASES = {"clevr_with_masks": "clevr"}
