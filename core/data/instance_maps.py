"""Label maps as people draw or export them: instances told apart by palette index, by grey value or by colour."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from core.data.errors import DataError

MOST_INSTANCES = 255
GREY = ("1", "L", "P", "I", "I;16", "LA")
COLOUR = ("RGB", "RGBA")


def read_instances(files: Sequence[Path]) -> UInt8[np.ndarray, "T H W"]:
    """The instances of one picture, or of the frames of one video, 0 = background.

    A number in a palette, or a grey value up to 255, is the number of an instance. Of colours, and of larger grey
    values, black is the background, and every other one an instance, numbered in their order (red first, then green)
    and the same in all frames. Raises DataError for a picture that is damaged, of another size or code than the first,
    or has more than 255 colours, as smoothed edges and JPEG give.
    """
    maps = []
    for path in files:
        labels, is_colour = _codes(path)
        if not maps:
            first = (labels.shape, is_colour)
        if (labels.shape, is_colour) != first:
            raise DataError(
                f"{path}: is {_described(labels.shape, is_colour)}, but {files[0].name} is {_described(*first)}. Masks "
                "of one video have one size, and all are grey or all in colours"
            )
        maps.append(labels)
    codes = np.stack(maps)
    if not is_colour and codes.max() <= MOST_INSTANCES:
        return codes.astype(np.uint8)
    values, numbers = np.unique(codes, return_inverse=True)
    has_background = int(values[0] == 0)
    if len(values) - has_background > MOST_INSTANCES:
        raise DataError(
            f"{files[0]}: holds {len(values)} colours, expected one for every instance and black, at most "
            f"{MOST_INSTANCES + 1}. Save masks as PNG, without smoothed edges"
        )
    return (numbers.reshape(codes.shape) + 1 - has_background).astype(np.uint8)


def _codes(path: Path) -> tuple[Int64[np.ndarray, "H W"], bool]:
    """A number for every pixel, and whether it stands for a colour."""
    try:
        with Image.open(path) as file:
            if file.format == "PNG":
                file.verify()  # decoding alone lets some damage pass
        with Image.open(path) as file:
            mode = file.mode
            pixels = np.asarray(file.convert("L") if mode == "LA" else file.convert("RGB") if mode in COLOUR else file)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Every picture needs a mask of its name, or remove masks/") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}). Save the mask again as PNG") from error
    if mode not in (*GREY, *COLOUR):
        raise DataError(f"{path}: a mask is grey, RGB or has a palette, this picture is {mode}. Save it again as PNG")
    pixels = pixels.astype(np.int64)
    if mode in COLOUR:
        return (pixels[..., 0] << 16) + (pixels[..., 1] << 8) + pixels[..., 2], True
    return pixels, False


def _described(shape: tuple[int, ...], is_colour: bool) -> str:
    return f"{shape[1]}x{shape[0]} and {'in colours' if is_colour else 'grey'}"
