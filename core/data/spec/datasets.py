"""What a data set of a data string is: its variants and sizes, where it lies, and how still pictures are opened."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from core.data.celeba import CelebA
from core.data.clevr import Clevr
from core.data.clevrtex import ClevrTex
from core.data.coco import Coco
from core.data.errors import DataError
from core.data.framing import Framing
from core.data.loader import BatchSource
from core.data.msn import MSN
from core.data.multi_mnist import MultiMnist
from core.data.multi_object_h5 import MultiObjectH5
from core.data.nmr import NMR
from core.data.obsurf import NUM_LABELS, ObSuRF
from core.data.pascal import Pascal
from core.data.photo_reader import PhotoReader
from core.data.spec.sources import Framed, input_views
from core.data.voc import VOC

ROOTS = (Path("ool_data"), Path("data"))
"""Where data are looked for: ClevrTex's folder, and the one that the README makes data in."""
SPLITS = ("train", "val", "test")
HELD_OUT = 10  # the last one in so many training samples of an .h5 file are for validation
PHOTOS: dict[str, type[PhotoReader]] = {"coco": Coco, "voc": VOC}
PHOTO_SIDE = 224
Kind = Literal["images", "videos", "views"]


class MissingData(DataError):
    """A data set is in none of the places where it is looked for."""


@dataclass(frozen=True)
class Request:
    """One split of a data set as it is wanted; `find(*places)` gives the first place there is below the data folders.

    masks: label maps are to be read.
    frames: of videos that are opened whole; None for all.
    """

    variant: str | None
    split: str
    framing: Framing
    masks: bool
    find: Callable[..., Path]
    frames: int | None = None

    @property
    def needs_labels(self) -> bool:
        return self.masks or self.framing.only_object


Opener = Callable[[Request], BatchSource]


@dataclass(frozen=True)
class DataSet:
    """One name of a data string.

    open: as still pictures. open_whole: as the videos or views that it holds.
    size: height and width of the published pictures; None if they differ.
    remedy: where the data come from, `{variant}` stands for the one asked for.
    default_variant: meant if none is given; without it one of `variants` must be given.
    crop: fraction of the shorter side that the flag `crop` keeps. lower: how far below the middle, see `Framing`.
    antialias: how pictures are resized, see `Framing`.
    short_name: in the names of experiments.
    splits: that may be asked for; a set may still lack one of them.
    """

    open: Opener
    size: tuple[int, int] | None
    remedy: str
    variants: tuple[str, ...] = ()
    default_variant: str | None = None
    crop: float = 1.0
    lower: float = 0.0
    antialias: bool = False
    has_masks: bool = True
    short_name: str = ""
    kind: Kind = "images"
    open_whole: Opener | None = None
    splits: tuple[str, ...] = SPLITS


def request_of(
    name: str, data_set: DataSet, variant: str | None, split: str, root: Path | None, **wanted: object
) -> Request:
    """What to open of the set `name`, below `root` or below one of ROOTS; `wanted` are `framing`, `masks`, `frames`.

    Its `find` raises MissingData, naming all places looked at, if the set is not there.
    """
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
            f"from {Path.cwd()}. {data_set.remedy.replace('{variant}', variant or '')}"
        )

    return Request(variant, split, find=find, **wanted)


def open_clevr(request: Request, most_objects: int | None = None) -> Clevr:
    folder = request.find("clevr_with_masks")
    return Clevr(folder, request.split, request.framing, request.masks, most_objects)


def open_clevrtex(request: Request) -> ClevrTex:
    folder = request.find(f"clevrtex_{request.variant}")
    return ClevrTex(folder, request.variant, request.split, request.framing, request.masks)


def open_multi_mnist(request: Request) -> Framed:
    source = MultiMnist(request.find("multi_mnist.npz"), request.split)
    return Framed(source, range(len(source)), request.framing)


def open_pascal(request: Request) -> Pascal:
    folder = request.find("VOCdevkit/VOC2012", "VOC2012")
    return Pascal(folder, request.split, request.framing, request.masks)


def open_h5(
    request: Request, folder: str, train: str, test: str, groups: tuple[str, str] = ("train", "test")
) -> Framed:
    """`train` and `test` are names of files, `groups` what they hold; the last training samples are for validation."""
    group, file = (groups[1], test) if request.split == "test" else (groups[0], train)
    file = file.format(variant=request.variant)
    path = request.find(f"{folder}/{file}", file)
    source = MultiObjectH5(path, group, masks=request.needs_labels)
    held_out = -(-len(source) // HELD_OUT)
    rows = {"train": range(len(source) - held_out), "val": range(len(source) - held_out, len(source))}
    return Framed(source, rows.get(request.split, range(len(source))), request.framing, request.masks)


def open_celeba(request: Request) -> CelebA:
    return CelebA(request.find("CelebA", "celeba"), request.split, request.framing)


def photo_reader(request: Request, name: str) -> PhotoReader | Framed:
    """Squares out of photographs; unless a flag changes them also with `overlap` and `semantic`, see PhotoReader."""
    is_plain = replace(request.framing, crop=None) == Framing(size=request.framing.size)
    return _photos(request, name) if is_plain else open_photos(request, name)


def open_photos(request: Request, name: str) -> Framed:
    """Squares out of photographs."""
    source = _photos(request, name)
    return Framed(source, range(len(source)), request.framing, request.masks)


def _photos(request: Request, name: str) -> PhotoReader:
    height, width = (not request.framing.only_object and request.framing.size) or (PHOTO_SIDE, PHOTO_SIDE)
    if height != width:
        raise ValueError(f"squares are cut out of the photographs of {name}, not {height}x{width}: give equal sides")
    return PHOTOS[name](request.find(name.upper(), name), request.split, height, masks=request.needs_labels)


def view_reader(request: Request, name: str) -> ObSuRF | MSN | NMR:
    """Scenes from several sides with their cameras; `draw` takes all pixels of the target views."""
    if name == "msn":
        path = request.find("msn", "multi_shapenet_frames")
        path = path.parent if path.name == "multi_shapenet_frames" else path
        return MSN(path, request.split, masks=request.needs_labels, full_scale=True)
    if name == "nmr":
        return NMR(request.find("NMR_Dataset", "nmr"), request.split, full_scale=True)
    folder = request.find(*{"obsurf_msn": (name, "multishapenet")}.get(name, (name,)))
    return ObSuRF(folder, request.split, name, max_objects=NUM_LABELS[name] - 1, full_scale=True)


def open_views(request: Request, name: str) -> Framed:
    """The input view of every scene."""
    source = view_reader(request, name)
    return Framed(source, range(len(source)), request.framing, request.masks, input_views)
