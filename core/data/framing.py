"""How a picture and its label map are cut, mirrored and resized before a model sees them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from core.data.label_maps import numbered_without_gaps
from core.data.video import resize_frames, resize_labels

Picture = UInt8[np.ndarray, "H W 3"]
LabelMap = UInt8[np.ndarray, "H W"]


@dataclass(frozen=True)
class Framing:
    """What is done to a picture and to its label map, in the order of the fields; nothing by default.

    crop: the square in the middle is kept whose side is this fraction of the shorter side.
    flip: mirrors left and right (`columns`), or top and bottom (`rows`).
    only_object: the bounding box of the first object in sight is kept; its pixels get label 1, all others 0. A picture
        without objects is kept as it is.
    size: height and width. Pictures are resized bilinearly and rounded, labels are picked.
    max_objects: larger labels become 0, background.
    without_gaps: the labels that a picture still shows become 1, 2, ... in their order.
    antialias: resize as Pillow does, which averages over all pixels that become one; else as torch does, which does
        not.
    lower: how far below the middle the square of `crop` lies, as a fraction of the height.

    ValueError if `only_object` has no `size`, since boxes differ.
    """

    crop: float | None = None
    flip: Literal["columns", "rows"] | None = None
    only_object: bool = False
    size: tuple[int, int] | None = None
    max_objects: int | None = None
    without_gaps: bool = False
    antialias: bool = False
    lower: float = 0.0

    def __post_init__(self) -> None:
        if self.only_object and self.size is None:
            raise ValueError("objects cut out of their pictures differ in size: give a size to resize them to")

    @property
    def key(self) -> str:
        """The decisions that change pixels, as part of a file's name."""
        parts = (
            f"crop{self.crop}" if self.crop else "",
            f"lower{self.lower:.4f}" if self.crop and self.lower else "",
            self.flip or "",
            "object" if self.only_object else "",
            f"{self.size[0]}x{self.size[1]}" if self.size else "",
            "antialias" if self.antialias and self.size else "",
        )
        return "-".join(part for part in parts if part) or "whole"

    def frame_picture(self, image: Picture, labels: LabelMap | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """The picture as a model sees it; its own `labels` are needed with `only_object`."""
        image = self._cut(image)
        if self.only_object:
            image = image[_first_object(self._cut(labels))[1]]
        if self.size is None or image.shape[:2] == self.size:
            return image
        if self.antialias:
            return np.asarray(Image.fromarray(image).resize(self.size[::-1], Image.Resampling.BILINEAR))
        return resize_frames(image[None], self.size)[0]

    def frame_labels(self, labels: LabelMap) -> UInt8[np.ndarray, "h w"]:
        """The label map of a picture as `frame_picture` shows it; the numbers are left to `number_objects`."""
        labels = self._cut(labels)
        if self.only_object:
            label, box = _first_object(labels)
            labels = (labels[box] == label).astype(np.uint8)
        if self.size is None or labels.shape == self.size:
            return labels
        if self.antialias:
            return np.asarray(Image.fromarray(labels).resize(self.size[::-1], Image.Resampling.NEAREST))
        return resize_labels(labels[None], self.size)[0]

    def number_objects(self, labels: UInt8[np.ndarray, "n H W"]) -> UInt8[np.ndarray, "n H W"]:
        """Framed label maps with `max_objects` and `without_gaps` observed."""
        labels = self.limit_objects(labels)
        return np.stack([numbered_without_gaps(one) for one in labels]) if self.without_gaps else labels

    def limit_objects(self, labels: UInt8[np.ndarray, "*any"]) -> UInt8[np.ndarray, "*any"]:
        """`labels` with `max_objects` observed."""
        if self.max_objects is None:
            return labels
        return np.where(labels > self.max_objects, np.uint8(0), labels)

    def _cut(self, pixels: Shaped[np.ndarray, "H W *any"]) -> Shaped[np.ndarray, "h w *any"]:
        """Cropped and mirrored."""
        height, width = cropped_size(*pixels.shape[:2], self.crop)
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        if self.crop:
            top += round(self.lower * pixels.shape[0])
        pixels = pixels[top : top + height, left : left + width]
        if self.flip == "columns":
            pixels = pixels[:, ::-1]
        elif self.flip == "rows":
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)


def cropped_size(height: int, width: int, crop: float | None) -> tuple[int, int]:
    """Height and width of what `Framing(crop)` leaves of a picture."""
    if crop is None:
        return height, width
    side = int(crop * min(height, width))
    return side, side


def _first_object(labels: LabelMap) -> tuple[int, tuple[slice, slice]]:
    """The smallest label above 0 and its rows and columns; without any, label 255 and the whole."""
    if not labels.any():
        return 255, (slice(None), slice(None))
    label = int(labels[labels > 0].min())
    rows, columns = np.nonzero(labels == label)
    return label, (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
