"""Pascal VOC 2012 (Everingham et al. 2010) as unpacked: photos whose objects are segmented one by one.

`<root>/ImageSets/Segmentation/<train|val>.txt` names the pictures, `JPEGImages/<name>.jpg` holds them and
`SegmentationObject/<name>.png` their objects 1, 2, ...; 0 is the background and 255 the unlabelled rim of objects.
"""

from pathlib import Path

import numpy as np

from core.data.errors import DataError
from core.data.framing import Framing, LabelMap, Picture
from core.data.picture_reader import PictureReader
from core.data.video import read_picture

SPLITS = ("train", "val")
SOURCE = (
    "Unpack VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/, which gives "
    "VOCdevkit/VOC2012/"
)


class Pascal(PictureReader):
    """One split of the pictures with segmented objects; their rims count as background.

    The photos differ in size, so `framing` has one. ValueError for a test split, whose objects are not published.
    """

    def __init__(self, root: str | Path, split: str, framing: Framing, masks: bool = False):
        if split not in SPLITS:
            raise ValueError(f"Pascal VOC split {split!r} is not one of {', '.join(SPLITS)}")
        self.root = Path(root)
        names = listed_names(self.root / "ImageSets" / "Segmentation" / f"{split}.txt", SOURCE)
        pictures = [self.root / "JPEGImages" / f"{name}.jpg" for name in names]
        super().__init__(self.root, split, pictures, framing, masks)

    def open_picture(self, path: Path) -> Picture:
        return read_picture(path, "RGB")

    def open_labels(self, path: Path) -> LabelMap:
        labels = read_picture(path, "L")
        return np.where(labels == 255, np.uint8(0), labels)

    def file_of_labels(self, picture: Path) -> Path:
        return self.root / "SegmentationObject" / f"{picture.stem}.png"


def listed_names(path: Path, remedy: str) -> list[str]:
    """The pictures that a text file names, one in a line. Raises DataError that says `remedy`."""
    try:
        names = path.read_text().split()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {remedy}") from error
    if not names:
        raise DataError(f"{path}: names no pictures. {remedy}")
    return names
