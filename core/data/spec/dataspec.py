"""The benchmark's data strings: `clevrtex:full-crop-(128,128)`, `clevr-crop-small-rbg-max6`, `concat(clevr,...)-c`."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clevrtex.framework.datasets import ALIASES, SETS, SPLITS, open_data_set
from clevrtex.framework.recolour import Background, Objects, num_colours, recolour
from clevrtex.framework.sources import Coloured, Concatenated
from core.data.clevrtex import PUBLISHED as CLEVRTEX_FRAMING
from core.data.framing import Framing, cropped_size
from core.data.loader import Batch, BatchSource

SIZES = {"tiny": (48, 64), "small": (96, 128), "medium": (144, 192), "large": (192, 256), "huge": (240, 320)}
FLAGS: dict[str, tuple[str, Any]] = {
    **dict.fromkeys(("crop_c", "crop", "c", "cc"), ("crop", True)),
    "flip": ("flip", True),
    **dict.fromkeys(("obj", "onlyobject"), ("only_object", True)),
    **dict.fromkeys(("sub_bg", "subbg", "bbg", "sbg"), ("background", "black")),
    **dict.fromkeys(("rng_bg", "rngbg", "rbg"), ("background", "random")),
    **dict.fromkeys(("rng_sob", "rngsob", "rso"), ("objects", "one")),
    **dict.fromkeys(("rng_dob", "rbg_dob", "rngdob", "rdo"), ("objects", "individual")),
    **{name: ("size", size) for name, size in SIZES.items()},
}
"""What each word of a data string sets."""


@dataclass(frozen=True)
class DataSpec:
    """One or several data sets and what is done to their pictures; see `parse` for the words.

    `str()` is the short name that stands in the names of experiments. As in the original it does not tell all sizes
    apart.
    """

    sets: tuple[tuple[str, str | None], ...]
    """Name and variant of each."""
    crop: bool = False
    flip: bool = False
    only_object: bool = False
    size: tuple[int, int] | None = None
    """Height and width."""
    background: Background | None = None
    objects: Objects | None = None
    max_objects: int | None = None

    def __post_init__(self) -> None:
        if self.max_objects is not None and self.background is None:
            raise ValueError("max needs bbg or rbg: objects left out have to be painted over")
        without = [name for name, _ in self.sets if not SETS[name].has_masks]
        if without and (self.recolours or self.only_object):
            raise ValueError(f"{without[0]} has no masks, so that it can be neither recoloured nor cut into objects")

    @classmethod
    def parse(cls, text: str) -> "DataSpec":
        """The specification of `<set>[:<variant>][-<flag>]...` or `concat(<set>[:<variant>],...)[-<flag>]...`.

        Flags in any order and either case: crop (also crop_c, c, cc), flip, obj, bbg, rbg, rso, rdo, max<N>, (h,w) or
        one of the names of SIZES. Raises ValueError with the nearest name for a word that is not known, and where flags
        exclude each other.
        """
        head, *words = (part.strip() for part in str(text).split("-"))
        try:
            chosen: dict[str, Any] = {}
            for word in filter(None, (word.lower() for word in words)):
                key, value = _flag(word)
                if chosen.setdefault(key, value) != value:
                    raise ValueError(f"{word!r} contradicts an earlier flag")
            return cls(sets=_sets(head), **chosen)
        except ValueError as error:
            raise ValueError(f"--data {text!r}: {error}") from error

    def __str__(self) -> str:
        names = [(SETS[name].short_name or name) + (f"_{variant}" if variant else "") for name, variant in self.sets]
        text = "+".join(names) + ("-" if len(names) > 1 else "") + "c" * self.crop + "flip" * self.flip
        if self.size:
            text += next((name[0] for name, (height, _) in SIZES.items() if self.size[0] <= height), "-cs")
        text += {"black": "-bbg", "random": "-rbg", None: ""}[self.background]
        text += {"individual": "-rdo", "one": "-rso", None: ""}[self.objects]
        return text + (f"-m{self.max_objects}" if self.max_objects else "") + "-obj" * self.only_object

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the pictures, of published sets if no size is given.

        ValueError where they differ. Sets of other sizes, which tools/make_data.py can make, are as large as the
        `image_size` of what `open` gives.
        """
        shapes = {self.size or self._unsized(name) for name, _ in self.sets}
        if len(shapes) > 1 or None in shapes or (self.only_object and not self.size):
            raise ValueError(f"--data {self}: pictures differ in size. Add a size such as -(128,128)")
        return 3, *shapes.pop()

    def _unsized(self, name: str) -> tuple[int, int] | None:
        size = SETS[name].size
        return size and cropped_size(*size, SETS[name].crop if self.crop else None)

    @property
    def has_masks(self) -> bool:
        """Whether all its sets can be scored, that is, opened with `masks`."""
        return all(SETS[name].has_masks for name, _ in self.sets)

    @property
    def recolours(self) -> bool:
        return self.background is not None or self.objects is not None

    def open(
        self, split: str, root: str | Path | None = None, *, masks: bool = False, as_original: bool = False
    ) -> BatchSource:
        """Pictures (uint8 `image`) of one split, with `masks` or to be recoloured also `mask`, and `colours` if random.

        root: folder of the data; else `ool_data` and `data` in the working directory.
        as_original: `flip` mirrors top and bottom, `crop` leaves CLEVR6 240x240 pixels, and ClevrTex is cropped and
            resized to 128x128 whatever the flags.

        ValueError for a split that a set does not have, DataError for data that are missing or damaged.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        if masks and not self.has_masks:
            raise ValueError(f"--data {self}: has no masks, so that it can be trained on and not be scored")
        root = None if root is None else Path(root)
        with_masks = masks or self.recolours
        sources = [
            open_data_set(name, variant, split, root, self.framing(name, as_original), with_masks)
            for name, variant in self.sets
        ]
        source = sources[0] if len(sources) == 1 else Concatenated(sources)
        number = num_colours(self.background, self.objects)
        return Coloured(source, number) if number else source

    def framing(self, name: str, as_original: bool = False) -> Framing:
        """How pictures of the set `name` are cut and resized; see `open`."""
        data_set = SETS[name]
        if as_original and name == "clevrtex":
            return CLEVRTEX_FRAMING
        crop = 1.0 if as_original and name == "clevr6" else data_set.crop
        flip = "rows" if as_original else "columns"
        return Framing(
            crop=crop if self.crop else None,
            flip=flip if self.flip else None,
            only_object=self.only_object,
            size=self.size,
            max_objects=self.max_objects,
            antialias=data_set.antialias,
        )

    def recolour(self, batch: Batch) -> Batch:
        """A batch on the device, its float `image` recoloured as the flags say and its `colours` dropped."""
        if not self.recolours:
            return batch
        image = recolour(batch["image"], batch["mask"], batch.get("colours"), self.background, self.objects)
        return {key: value for key, value in batch.items() if key != "colours"} | {"image": image}


def _flag(word: str) -> tuple[str, Any]:
    """Field and value that a word sets."""
    if word in FLAGS:
        return FLAGS[word]
    if match := re.fullmatch(r"max([1-9]\d*)", word):
        return "max_objects", int(match[1])
    if match := re.fullmatch(r"\(\s*([1-9]\d*)\s*,\s*([1-9]\d*)\s*\)", word):
        return "size", (int(match[1]), int(match[2]))
    raise ValueError(f"no flag {word!r}; {_nearest(word, FLAGS)}. Others are max<N> and (height,width)")


def _sets(text: str) -> tuple[tuple[str, str | None], ...]:
    match = re.fullmatch(r"concat\((.*)\)", text)
    return tuple(_set(part.strip()) for part in (match[1].split(",") if match else [text]))


def _set(text: str) -> tuple[str, str | None]:
    """Name and variant."""
    name, _, variant = text.partition(":")
    name = ALIASES.get(name, name)
    if name not in SETS:
        raise ValueError(f"no data set {name!r}; {_nearest(name, SETS)}")
    variants, default = SETS[name].variants, SETS[name].default_variant
    if variant and not variants:
        raise ValueError(f"{name} has no variants, found {variant!r}")
    if variant and variant not in variants:
        raise ValueError(f"no variant {variant!r} of {name}; {_nearest(variant, variants)}")
    if variants and not variant and not default:
        raise ValueError(f"{name} needs a variant, one of {', '.join(f'{name}:{known}' for known in variants)}")
    return name, variant or None


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
