"""Pictures of decompositions: grids, and panels with one row per image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, Num, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from core.files import replacing
from core.types import Decomposition
from core.viz.colours import colour_labels, colour_masks, slot_colours

CELL_SIZE = 96  # side in pixels that small pictures are enlarged to, about
LINE_WIDTH = 2  # white lines between cells
TITLE_HEIGHT = 16
UNDERLINE_HEIGHT = 3  # slot colour below a slot's title
NEUTRAL_GREY = 0.5  # shows dark and bright objects alike


def image_grid(
    images: Num[Tensor, "N C H W"], columns: int = 8, padding: int = 2, pad_value: float = 0.0
) -> Num[Tensor, "C_out H_out W_out"]:
    """Images in rows of `columns`, with `padding` pixels around each, as torchvision's `make_grid` lays out.

    The pixels around them and the cells without an image are `pad_value`. One channel is repeated to three; values stay
    as they are; a single image comes back without padding.
    """
    if images.shape[1] == 1:
        images = images.repeat(1, 3, 1, 1)
    if len(images) == 1:
        return images[0]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cells = F.pad(images, (padding, 0, padding, 0, 0, 0, 0, rows * columns - len(images)), value=pad_value)
    cells = cells.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)
    return F.pad(cells.flatten(3, 4).flatten(1, 2), (0, padding, 0, padding), value=pad_value)


def panel(
    image: Float[Tensor, "B 3 H W"],
    decomposition: Decomposition,
    true_labels: Integer[Tensor, "B H W"] | None = None,
    max_images: int = 8,
) -> UInt8[np.ndarray, "H_out W_out 3"]:
    """One row per image: input, reconstruction, true and predicted segmentation, then every slot on grey.

    image is in [0, 1]. The true segmentation is there if `true_labels` are given (0 = background, black); the predicted
    one blends slot colours by the masks, and each slot's title is underlined in its colour. A slot is shown as
    mask * rgb, or as mask * image for models without a picture per slot. Small pictures are enlarged by an integer
    factor. White lines of two pixels separate the cells.

    Raises ValueError for the decomposition of a video, or of another batch or picture size than `image`.
    """
    if decomposition.is_video:
        raise ValueError(
            "panel draws images, found the decomposition of a video; "
            "flatten batch and frames of every field into one axis"
        )
    if decomposition.recon.shape != image.shape:
        raise ValueError(
            f"panel: expected a recon of the image's shape {tuple(image.shape)}, "
            f"found {tuple(decomposition.recon.shape)}"
        )
    image = image[:max_images].detach().float().cpu()
    shown = decomposition[:max_images].detach().cpu()
    masks = shown.masks.float()

    pictures = {"input": image, "recon": shown.recon.float()}
    if true_labels is not None:
        labels = true_labels[:max_images].cpu()
        pictures["truth"] = colour_labels(labels, num_objects=int(labels.max()))
    pictures["masks"] = colour_masks(masks)
    rgb = image.unsqueeze(1) if shown.rgb is None else shown.rgb.float().clamp(0, 1)
    soft = masks.unsqueeze(2)
    slots_on_grey = soft * rgb + (1 - soft) * NEUTRAL_GREY

    columns = [_column(title, cells) for title, cells in pictures.items()]
    for slot, colour in enumerate(slot_colours(shown.num_slots)):
        columns.append(_column(f"slot {slot}", slots_on_grey[:, slot], underline=colour))
    return np.concatenate(columns, axis=1)[:, :-LINE_WIDTH]


def _column(
    title: str, cells: Float[Tensor, "B 3 H W"], underline: Float[Tensor, 3] | None = None
) -> UInt8[np.ndarray, "H_out W_out 3"]:
    """Title above cells, each cell with a white line to its right and, but for the last, below."""
    factor = max(1, round(CELL_SIZE / max(cells.shape[-2:])))
    pixels = _to_uint8(cells).repeat(factor, axis=1).repeat(factor, axis=2)
    pixels = np.pad(pixels, ((0, 0), (0, LINE_WIDTH), (0, LINE_WIDTH), (0, 0)), constant_values=255)
    width = pixels.shape[2]
    strip = Image.new("RGB", (width, TITLE_HEIGHT), "white")
    draw = ImageDraw.Draw(strip)
    draw.text(
        ((width - LINE_WIDTH) / 2, (TITLE_HEIGHT - UNDERLINE_HEIGHT) / 2),
        title,
        "black",
        ImageFont.load_default(),
        anchor="mm",
    )
    if underline is not None:
        colour = tuple(_to_uint8(underline.view(1, 3, 1, 1)).flatten().tolist())
        bottom = (0, TITLE_HEIGHT - UNDERLINE_HEIGHT, width - LINE_WIDTH - 1, TITLE_HEIGHT - 1)
        draw.rectangle(bottom, fill=colour)
    return np.concatenate([np.asarray(strip), pixels.reshape(-1, width, 3)[:-LINE_WIDTH]])


def _to_uint8(pictures: Float[Tensor, "B 3 H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def save_png(path: str | Path, array: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write a picture, creating its folder; a reader sees the old file or the whole of the other one."""
    with replacing(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG")
