"""Pascal VOC 2012 (Everingham et al. 2010) with the pictures of SBD (Hariharan et al. 2011), as SlotDiffusion reads it.

`<root>/sets/{trainaug,val}.txt` name the photographs, `images/<name>.jpg` hold them. `SegmentationObject/<name>.png`
tells objects apart and `SegmentationClass/<name>.png` says of what class they are; 0 is the background and 255 the
unlabelled rim of objects. Most photographs of trainaug have no objects told apart.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from core.data.errors import DataError
from core.data.listed_files import listed_files
from core.data.pascal import listed_names
from core.data.photo_reader import PhotoReader
from core.data.video import read_picture

SPLITS = {"train": "trainaug", "val": "val", "test": "val"}
"""The labels of VOC's own test split are not published."""
RIM = 255
REMEDY = (
    "Of VOCdevkit/VOC2012 of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ JPEGImages/ becomes images/ and "
    "ImageSets/Segmentation/ becomes sets/, to which trainaug.txt of SBD is added; a set like it is made by "
    "`python tools/make_data.py voc --root ... --scenes 1000`"
)


class VOC(PhotoReader):
    """Squares of `side` pixels out of the photographs of one split, see PhotoReader.

    The rims of objects count as background and are not scored. In training squares are cut out anywhere along the
    longer side.
    """

    def __init__(
        self, root: str | Path, split: str, side: int = 224, *, masks: bool = False, as_original: bool = False
    ):
        if split not in SPLITS:
            raise ValueError(f"VOC split {split!r} is not one of {', '.join(SPLITS)}")
        root = Path(root)
        names = listed_names(root / "sets" / f"{SPLITS[split]}.txt", REMEDY)
        sources = listed_files(root / "images", [f"{name}.jpg" for name in names], REMEDY)
        self._objects, self._classes = (
            listed_files(root / folder, [f"{name}.png" for name in names], REMEDY) if masks else []
            for folder in ("SegmentationObject", "SegmentationClass")
        )
        super().__init__(
            root,
            SPLITS[split],
            sources,
            [*self._objects, *self._classes],
            np.stack([_size(source) for source in sources]),
            side,
            masks=masks,
            shifts=split == "train",
            as_original=as_original,
        )

    def open_labels(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        objects, classes = (read_picture(files[index], "L") for files in (self._objects, self._classes))
        for file, labels in ((self._objects[index], objects), (self._classes[index], classes)):
            if labels.shape != tuple(self.sizes[index]):
                height, width = self.sizes[index]
                raise DataError(
                    f"{file}: is {labels.shape[1]}x{labels.shape[0]}, its photograph {width}x{height}. {REMEDY}"
                )
        overlap = (objects == RIM) | (classes == RIM)
        inside = ~overlap
        return np.stack([objects * inside, overlap.astype(np.uint8), classes * inside], axis=-1)


def _size(path: Path) -> Int64[np.ndarray, "2"]:
    """Height and width of a picture, from its first bytes."""
    try:
        with Image.open(path) as file:
            return np.array([file.height, file.width])
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}). {REMEDY}") from error
