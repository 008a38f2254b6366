"""CelebA on disk (Liu et al. 2015), as torchvision unpacks it: aligned and cropped faces, 178 pixels wide, 218 high.

`<root>/celeba/img_align_celeba/NNNNNN.jpg`, and `<root>/celeba/list_eval_partition.txt`, which says of every picture
whether it is for training (0), validation (1) or testing (2).
"""

from pathlib import Path

from core.data.errors import DataError, MissingSplit
from core.data.framing import Framing, Picture
from core.data.listed_files import listed_files
from core.data.picture_reader import PictureReader
from core.data.video import read_picture

PARTITION = "list_eval_partition.txt"
PICTURES = "img_align_celeba"
PUBLISHED = Framing(size=(128, 128))
SPLITS = {"train": "0", "val": "1", "test": "2"}
REMEDY = (
    "The published set comes from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (unpack img_align_celeba.zip "
    f"beside {PARTITION}); one like it is made by `python tools/make_data.py celeba --root ... --scenes 1000`"
)


class CelebA(PictureReader):
    """The faces of one split, as a rule squashed to 128x128 without antialiasing. There are no label maps.

    `root` is the folder that holds celeba/, or that folder. Raises DataError.
    """

    def __init__(self, root: str | Path, split: str, framing: Framing = PUBLISHED):
        if split not in SPLITS:
            raise ValueError(f"CelebA split {split!r} is not one of {', '.join(SPLITS)}")
        root = Path(root)
        path = root / "celeba" if (root / "celeba").is_dir() else root
        names = _names_of_split(path / PARTITION, SPLITS[split])
        if not names:
            raise MissingSplit(f"{path / PARTITION}: names no pictures of split {split!r}. {REMEDY}")
        super().__init__(path, split, listed_files(path / PICTURES, names, REMEDY), framing, masks=False)

    def open_picture(self, path: Path) -> Picture:
        return read_picture(path, "RGB")


def _names_of_split(partition: Path, number: str) -> list[str]:
    """Files that `partition` says to be of the split of that number, in its order. Raises DataError."""
    try:
        lines = partition.read_text().splitlines()
    except OSError as error:
        raise DataError(
            f"{partition}: cannot be read ({error.strerror}). Give the folder that holds celeba/. {REMEDY}"
        ) from error
    names = []
    for count, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) != 2 or words[1] not in SPLITS.values():
            raise DataError(
                f"{partition}: line {count} is {line!r}, expected a file's name and 0, 1 or 2. Fetch the file again. "
                f"{REMEDY}"
            )
        if words[1] == number:
            names.append(words[0])
    return names
