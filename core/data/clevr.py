"""CLEVR with masks as the ClevrTex benchmark stores it: one compressed `.npz` per picture and a manifest.

`<root>/manifest_ind.json` maps an index to the path of its file; in each file `image` [240, 320, 3] uint8, `mask`
[11, 240, 320, 1] of 0 and 255 (entity 0 is the background) and `visibility` [11], beside other factors.
"""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from tqdm import tqdm

from core.data.errors import DataError, MissingSplit
from core.data.framing import Framing, LabelMap, Picture
from core.data.generated import rows_of_split
from core.data.picture_reader import PictureReader
from core.data.video import stamp
from core.files import replacing
from core.metrics.segmentation import labels_from_masks

SPLITS = {"test": (0, 15_000), "val": (15_000, 30_000), "train": (30_000, None)}
SHARES = {"test": (0.0, 0.15), "val": (0.15, 0.3), "train": (0.3, 1.0)}  # of the scenes of a generated set
PUBLISHED = Framing(crop=0.8, size=(128, 128))
REMEDY = (
    "Convert the published file with `python tools/convert_clevr.py clevr_with_masks_train.tfrecords --root ...`, or "
    "make a set like it with `python tools/make_data.py clevr --root ... --scenes 1000`"
)


class Clevr(PictureReader):
    """One split of CLEVR with masks, by default as the benchmark frames it.

    Besides the pictures and label maps of a `PictureReader`, `read` gives `visible` (n, E) bool with `masks`: which
    entities, the background first, the whole scene shows.

    most_objects: scenes with more visible objects are left out (6: CLEVR6). Their list is kept beside the folder, as
    `clevr6_<split>_index.json`, until the data change.
    A set that `tools/make_data.py` made is split by its share of scenes: the first 15 % test, the next 15 % val.

    Raises DataError.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        framing: Framing = PUBLISHED,
        masks: bool = True,
        most_objects: int | None = None,
    ):
        if split not in SPLITS:
            raise ValueError(f"CLEVR split {split!r} is not one of {', '.join(SPLITS)}")
        path = Path(root)
        found = _indexed_files(path)
        begin, end = rows_of_split(path, SPLITS[split], SHARES[split])
        files = found[begin:end]
        if not files:
            raise MissingSplit(f"{path}: holds {len(found)} pictures, none of them in split {split!r}. {REMEDY}")
        if most_objects is not None:
            files = _with_few_objects(path, split, files, most_objects)
        super().__init__(path, f"{split}{most_objects or ''}", files, framing, masks)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        batch = super().read(indices)
        if self.masks:
            batch["visible"] = torch.from_numpy(np.asarray(self._visible[indices]) != 0)
            if self.framing.max_objects is not None:
                batch["visible"][:, self.framing.max_objects + 1 :] = False
        return batch

    @cached_property
    def _visible(self) -> np.ndarray:
        """[n, E] uint8."""
        num_entities = len(_visibility(self.sources[0]))
        return self.decode(
            f"{self.recipe}-visible", self.sources, (num_entities,), lambda path: _visibility(path).astype(np.uint8)
        )

    def open_picture(self, path: Path) -> Picture:
        """The picture in a file. Raises DataError."""
        image = _open(path, "image")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(
                f"{path}: image is {image.dtype} {list(image.shape)}, expected uint8 [240, 320, 3]. {REMEDY}"
            )
        return image

    def open_labels(self, path: Path) -> LabelMap:
        """Entity indices made of the masks in a file. Raises DataError."""
        mask = _open(path, "mask")
        if mask.dtype != np.uint8 or mask.ndim != 4 or mask.shape[3] != 1:
            raise DataError(
                f"{path}: mask is {mask.dtype} {list(mask.shape)}, expected uint8 [11, 240, 320, 1]. {REMEDY}"
            )
        return labels_from_masks(torch.from_numpy(mask[None, ..., 0]))[0].numpy()

    def file_of_labels(self, picture: Path) -> Path:
        return picture


def _indexed_files(path: Path) -> list[Path]:
    """All files in the order of their indices: those of the manifest, else those whose names end in a number."""
    manifest = path / "manifest_ind.json"
    try:
        files = {int(index): path / name for index, name in json.loads(manifest.read_text()).items()}
    except FileNotFoundError:
        numbered = {file: file.stem.rpartition("_")[2] for file in path.rglob("*.npz")}
        files = {int(number): file for file, number in numbered.items() if number.isdecimal()}
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{manifest}: not a table of indices and paths ({error}). {REMEDY}") from error
    if not files:
        raise DataError(f"{path}: no manifest_ind.json and no .npz file below it. {REMEDY}")
    return [files[index] for index in sorted(files)]


def _with_few_objects(path: Path, split: str, files: list[Path], most_objects: int) -> list[Path]:
    """Those of `files` with at most so many visible objects; the background is visible too."""
    index = path.parent / f"clevr{most_objects}_{split}_index.json"
    identity = stamp(path, files)
    try:
        kept = json.loads(index.read_text())
        if kept["data"] == identity:
            return [files[number] for number in kept["indices"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass  # not there, the original's bare list (which does not tell whether the data changed), or damaged
    entries = tqdm(files, desc=f"counting objects of {path.name} {split} once", unit=" files", leave=False)
    chosen = [number for number, file in enumerate(entries) if np.count_nonzero(_visibility(file)) <= most_objects + 1]
    if not chosen:
        raise DataError(f"{path}: no scene of split {split!r} has at most {most_objects} objects. {REMEDY}")
    try:
        with replacing(index) as partial:
            partial.write_text(json.dumps({"data": identity, "indices": chosen}))
    except OSError:
        pass  # where nothing may be written they are counted at every start
    return [files[number] for number in chosen]


def _visibility(path: Path) -> Bool[np.ndarray, "E"]:
    return _open(path, "visibility").ravel() != 0


def _open(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file[name]
    except FileNotFoundError as error:
        raise DataError(f"{path}: the manifest names it, but it is not there. {REMEDY}") from error
    except Exception as error:  # zipfile raises many kinds on a damaged archive
        raise DataError(f"{path}: cannot be read as a CLEVR scene ({error}). {REMEDY}") from error
