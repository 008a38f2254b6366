"""The words of data strings: `clevrtex:full-crop-(128,128)`, `movi_e`, `concat(clevr,...)-c`, `folder:PATH-(64,64)`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.clevrtex import PUBLISHED as CLEVRTEX_FRAMING
from core.data.folder_layout import folder_kind, has_masks
from core.data.framing import Framing, cropped_size
from core.data.loader import Batch, BatchSource
from core.data.spec.catalogue import SETS
from core.data.spec.datasets import Kind, request_of
from core.data.spec.recolour import Background, Objects, num_colours, recolour
from core.data.spec.sources import Coloured, Concatenated
from core.data.spec.words import SIZES, flag_of, sets_and_words


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

        Names and flags in either case. Flags in any order: crop (also crop_c, c, cc), flip, obj, bbg, rbg, rso, rdo,
        max<N>, (h,w) or one of the names of SIZES. Raises ValueError with the nearest name for a word that is not
        known, and where flags exclude each other.

        `folder:<path>` is one's own data. Of what follows, the words at the end that are flags are flags, and the rest
        is the path, hyphens, commas and colons included; a path whose last word reads like a flag ends with a slash.
        In `concat(...)` a comma separates two sets where the name of a set follows it.
        """
        text = str(text).strip()
        try:
            sets, words = sets_and_words(text)
            chosen: dict[str, Any] = {}
            for word in filter(None, (word.strip().lower() for word in words)):
                key, value = flag_of(word)
                if chosen.setdefault(key, value) != value:
                    raise ValueError(f"{word!r} contradicts an earlier flag")
            return cls(sets=sets, **chosen)
        except ValueError as error:
            raise ValueError(f"--data {text!r}: {error}") from error

    def __str__(self) -> str:
        names = [
            (SETS[name].short_name or name) + (f"_{Path(variant).name}" if variant else "")
            for name, variant in self.sets
        ]
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
    def kind(self) -> Kind:
        """What the data are: "images", "videos" or "views", that is, scenes seen from several sides with cameras.

        Joined sets of several kinds are opened as "images". DataError for a folder that is not there or empty.
        """
        kinds = {folder_kind(variant) if name == "folder" else SETS[name].kind for name, variant in self.sets}
        return kinds.pop() if len(kinds) == 1 else "images"

    @property
    def has_masks(self) -> bool:
        """Whether all its sets can be scored, that is, opened with `masks`.

        OBJ3D has them as tools/make_data.py makes it, and MOVi-Solid and MOVi-Tex but for their val split; `open` says
        where they are missing.
        """
        return all(has_masks(variant) if name == "folder" else SETS[name].has_masks for name, variant in self.sets)

    @property
    def recolours(self) -> bool:
        return self.background is not None or self.objects is not None

    def open(
        self, split: str, root: str | Path | None = None, *, masks: bool = False, as_original: bool = False
    ) -> BatchSource:
        """Pictures (uint8 `image`) of one split, with `masks` or to be recoloured also `mask`, and `colours` if random.

        Of videos the frames, of scenes seen from several sides the input views.

        root: folder of the data; else `ool_data` and `data` in the working directory.
        as_original: `flip` mirrors top and bottom, `crop` leaves CLEVR6 240x240 pixels, and ClevrTex is cropped and
            resized to 128x128 whatever the flags.

        ValueError for a split that a set does not have, DataError for data that are missing or damaged.
        """
        if masks and not self.has_masks:
            raise ValueError(f"--data {self}: has no masks, so that it can be trained on and not be scored")
        wanted = {"split": split, "root": root, "masks": masks or self.recolours}
        sources = [
            self._open(name, variant, framing=self.framing(name, as_original), **wanted) for name, variant in self.sets
        ]
        source = sources[0] if len(sources) == 1 else Concatenated(sources)
        number = num_colours(self.background, self.objects)
        return Coloured(source, number) if number else source

    def open_whole(self, split: str, root: str | Path | None = None, *, frames: int | None = None) -> BatchSource:
        """One split as what it is, see `kind`, with `mask` where there are masks.

        "images" are as `open` gives them. "videos" are `video` (n, T, 3, H, W) uint8 of (h,w) or the published size:
        the first `frames` frames of every video of the split, once; None takes all, as many as the first video has and
        no more than published ones. "views" are whole scenes as their reader gives them (core/data/{obsurf,msn,nmr}.py:
        `images`, `cameras`, ...), with `masks` where there are masks; its `draw` takes all pixels of the target views.

        ValueError for flags that the kind does not have, and as `open` does; DataError.
        """
        if self.kind == "images" and (len(self.sets) > 1 or self.recolours):
            return self.open(split, root, masks=self.has_masks)
        if len(self.sets) > 1:
            raise ValueError(f"--data {self}: concat(...) joins pictures, not {self.kind}")
        name, variant = self.sets[0]
        self._check_flags_of_whole(name)
        opener = SETS[name].open_whole or SETS[name].open
        framing = self.framing(name)
        return self._open(name, variant, split, root, opener, framing=framing, masks=self.has_masks, frames=frames)

    def _check_flags_of_whole(self, name: str) -> None:
        """Raises ValueError for flags that whole videos or views of the set do not have."""
        framing = {"flip": self.flip, "crop": self.crop, "(h,w)": self.size}
        allowed = {"images": (*framing, "obj", "max"), "videos": ("(h,w)",), "views": ()}[self.kind]
        if name == "folder":
            allowed = (*framing, "obj", "max")
        given = framing | {"obj": self.only_object, "max": self.max_objects, "bbg, rbg, rso or rdo": self.recolours}
        for flag, value in given.items():
            if value and flag not in allowed:
                what = f"whole {self.kind}" if self.kind != "images" else "them"
                raise ValueError(f"--data {self}: the flag {flag} is for pictures and does not go with {what}")

    def _open(self, name, variant, split, root, opener=None, **wanted) -> BatchSource:
        data_set = SETS[name]
        if split not in data_set.splits:
            raise ValueError(f"split {split!r} is not one of {', '.join(data_set.splits)}")
        root = None if root is None else Path(root)
        return (opener or data_set.open)(request_of(name, data_set, variant, split, root, **wanted))

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
            lower=data_set.lower if self.crop else 0.0,
        )

    def recolour(self, batch: Batch) -> Batch:
        """A batch on the device, its float `image` recoloured as the flags say and its `colours` dropped."""
        if not self.recolours:
            return batch
        image = recolour(batch["image"], batch["mask"], batch.get("colours"), self.background, self.objects)
        return {key: value for key, value in batch.items() if key != "colours"} | {"image": image}
