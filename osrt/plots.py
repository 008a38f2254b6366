"""Frames of the video that shows an input view, the render and the segmentation side by side."""

import itertools
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from core.data.errors import DataError
from core.files import replacing
from core.viz.palette import checkerboard, truncated_bytes

WIDTH, HEIGHT = 900, 350
LEFT, RIGHT, TOP, BOTTOM = 0.01, 0.99, 0.005, 0.035  # margins, in parts of the frame
GAP = 0.05  # between panels, in parts of a panel
LABEL_HEIGHT = 22
FONT_SIZE = 14
BOARD_HEIGHT, BOARD_WIDTH, BOARD_CELL = 240, 320, 12
THREADS = min(4, os.cpu_count() or 1)
REMEDY = "Render the scene first: python osrt/render.py CONFIG"


def numbered_pictures(folder: Path, limit: int | None = None) -> Iterator[Path]:
    """`folder`/0.png, 1.png, ... up to the first one that is missing, at most `limit`."""
    numbers = itertools.count() if limit is None else range(limit)
    return itertools.takewhile(Path.is_file, (folder / f"{number}.png" for number in numbers))


def open_picture(path: Path) -> Image.Image:
    """A decoded picture. DataError if it is missing or damaged."""
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}). {REMEDY}") from error
    return picture


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG, creating its folder; a reader sees the old file or the whole of the other one."""
    with replacing(path) as partial:
        picture.save(partial, format="PNG", compress_level=1)


class Plot:
    """What the frames of one scene share: labels, and the first input view on the left.

    size: width and height of the renders. Without segmentations there are two panels instead of three.
    """

    def __init__(self, first_input: Image.Image, size: tuple[int, int], has_segmentations: bool):
        labels = ["Input Image 1", "Rendered Scene", *["Segmentations"] * has_segmentations]
        width = (RIGHT - LEFT) * WIDTH / (len(labels) + GAP * (len(labels) - 1))
        self.canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
        self.boxes: list[tuple[int, int, int, int]] = []
        """Left, top, right and bottom of the picture in each panel."""
        draw = ImageDraw.Draw(self.canvas)
        font = ImageFont.load_default(FONT_SIZE)
        for column, label in enumerate(labels):
            left = LEFT * WIDTH + column * width * (1 + GAP)
            box = _fitted(left, width, first_input.size if column == 0 else size)
            draw.rectangle((box[0] - 1, box[1] - 1, box[2], box[3]), outline="black")
            draw.text((left + width / 2, box[3] + LABEL_HEIGHT / 2), label, "black", font, anchor="mm")
            self.boxes.append(box)
        self._show(self.canvas, 0, first_input)
        board = truncated_bytes(checkerboard(BOARD_HEIGHT, BOARD_WIDTH, BOARD_CELL))
        self._show(self.canvas, 1, Image.fromarray(board), Image.Resampling.NEAREST)

    def frame(self, render: Image.Image, segmentation: Image.Image | None) -> Image.Image:
        """One frame. Where the render is transparent, if it is, a checkerboard shows."""
        canvas = self.canvas.copy()
        self._show(canvas, 1, render)
        if segmentation is not None:
            self._show(canvas, 2, segmentation, Image.Resampling.NEAREST)
        return canvas

    def _show(
        self, canvas: Image.Image, panel: int, picture: Image.Image, how: Image.Resampling = Image.Resampling.LANCZOS
    ) -> None:
        left, top, right, bottom = self.boxes[panel]
        resized = picture.resize((right - left, bottom - top), how)
        canvas.paste(resized, (left, top), resized if resized.mode == "RGBA" else None)


def _fitted(left: float, width: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest box of the shape of `size` in a panel's place, in its middle, with room for a label below."""
    top, height = TOP * HEIGHT, (1 - TOP - BOTTOM) * HEIGHT
    scale = min(width / size[0], (height - LABEL_HEIGHT) / size[1])
    across, down = (max(1, round(scale * side)) for side in size)
    x, y = round(left + (width - across) / 2), round(top + (height - LABEL_HEIGHT - down) / 2)
    return x, y, x + across, y + down


def draw_plots(folder: Path, limit: int | None = None) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Draw `frames`/<i>.png for every `renders`/<i>.png of a rendered scene, at most `limit`; also gives the pictures.

    Segmentations are shown if there are any. Frames of an earlier, longer video are removed. Raises DataError.
    """
    renders = list(numbered_pictures(folder / "renders", limit))
    if not renders:
        raise DataError(f"{folder / 'renders' / '0.png'}: no such file. {REMEDY}")
    segmentations = folder / "segmentations"
    has_segmentations = (segmentations / "0.png").is_file()
    first_input = open_picture(folder / "input_0.png").convert("RGB")
    plot = Plot(first_input, open_picture(renders[0]).size, has_segmentations)
    for stale in itertools.takewhile(Path.is_file, (folder / f"frames/{i}.png" for i in itertools.count(len(renders)))):
        stale.unlink()

    def draw(render: Path) -> UInt8[np.ndarray, "H W 3"]:
        labels = open_picture(segmentations / render.name).convert("RGB") if has_segmentations else None
        frame = plot.frame(open_picture(render), labels)
        save_picture(folder / "frames" / render.name, frame)
        return np.asarray(frame)

    with ThreadPoolExecutor(THREADS) as pool:
        pending = deque()
        for render in renders:
            pending.append(pool.submit(draw, render))
            if len(pending) > 2 * THREADS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
