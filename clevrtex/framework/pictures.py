"""Pictures of a validation for TensorBoard, under the benchmark's names, and when they are drawn.

A picture is a grid of tiles as uint8 (3, H_out, W_out), with grey lines between tiles; values in [0, 1] are clamped,
multiplied by 255 and truncated. Shapes: B images, K slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from core.metrics.clevrtex import align_masks
from core.metrics.segmentation import with_background
from core.types import Decomposition
from core.viz.overlays import draw_boxes
from core.viz.panels import image_grid, save_png

GREY = 128
TILES_PER_ROW = 16
MAX_IMAGES = 32  # of `recon`, which has a row per slot
MAX_FILES = 8
PRESENT_CORNER = 2
FIRST_COLOURS = ((0, 0, 0), (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 0))
CYAN, MAGENTA, WHITE = (0, 255, 255), (255, 0, 255), (255, 255, 255)


def epochs_with_pictures(num_epochs: int) -> list[int]:
    """Those of the first `num_epochs` epochs whose validation draws pictures: ever fewer."""
    return [epoch for epoch in range(num_epochs) if has_pictures(epoch)]


def has_pictures(epoch: int) -> bool:
    if epoch < 10:
        return True
    if epoch < 50:
        return epoch % 3 == 0
    if epoch < 100:
        return epoch % 5 == 0
    return epoch % 10 == 9


def validation_pictures(
    prediction: Decomposition,
    batch: Mapping[str, Tensor],
    *,
    masks_have_background: bool = True,
    prefix: str = "",
) -> dict[str, UInt8[Tensor, "3 _ _"]]:
    """The pictures of a batch of `image` (B, 3, H, W) in [0, 1] and, if it has them, labels `mask` (B, H, W).

    Their names, with `prefix` before them:
    recon         inputs, outputs, the background where the model has one of its own, and each slot's part of the output
    segmentation  input, output, true labels and predicted labels matched to them; not of a batch without labels
    output        input and output with boxes, of models that say where their boxes are
    slots         the glimpses of models that have any, before they are placed

    Read from the prediction's extras: `background` (B, 3, H, W); `presence` (B, K) of the slots but the background;
    `boxes` (B, K, 4) in pixels, or `canvas_with_bbox` (B, 3, H, W); `glimpses` (B, K, 3, h, w); `other_masks`
    (B, K, H, W), which give an `other_recon` and an `other_segmentation`.

    masks_have_background: False for models whose masks show objects only: label 0 is then what they leave over.
    """
    image, prediction = batch["image"].cpu(), prediction.detach().cpu()
    labels = batch["mask"].cpu() if "mask" in batch else None
    recon, extras = prediction.recon, prediction.extras
    patches = recon.unsqueeze(1) if prediction.rgb is None else prediction.rgb
    presence, background = extras.get("presence"), extras.get("background")
    pictures = {}
    for kind, masks in (("", prediction.masks), ("other_", extras.get("other_masks"))):
        if masks is None:
            continue
        pictures[f"{prefix}{kind}recon"] = recon_picture(image, recon, patches, masks, background, presence)
        if labels is not None:
            segments = align_masks(masks if masks_have_background else with_background(masks), labels).labels
            pictures[f"{prefix}{kind}segmentation"] = segmentation_picture(image, recon, labels, segments)
    boxed = extras.get("canvas_with_bbox")
    if boxed is None and "boxes" in extras:
        present = torch.ones_like(extras["boxes"][..., 0]) if presence is None else presence
        boxed = draw_boxes(recon, extras["boxes"], present > 0.5)
    if boxed is not None:
        pictures[f"{prefix}output"] = side_by_side(image, boxed)
    if "glimpses" in extras:
        pictures[f"{prefix}slots"] = slots_picture(extras["glimpses"])
    return pictures


def recon_picture(
    image: Float[Tensor, "B 3 H W"],
    recon: Float[Tensor, "B 3 H W"],
    patches: Float[Tensor, "B #K 3 H W"],
    masks: Float[Tensor, "B K H W"],
    background: Float[Tensor, "B 3 H W"] | None = None,
    presence: Float[Tensor, "B _"] | None = None,
) -> UInt8[Tensor, "3 _ _"]:
    """One column per image, at most 32: input, output, background unless it is black everywhere, mask * patch per slot.

    Slots whose presence exceeds 0.5 have a green corner; slots before those that `presence` tells of have none.
    """
    shown = slice(MAX_IMAGES)
    slots = to_bytes(masks[shown].unsqueeze(2) * patches[shown])
    if presence is not None:
        present = F.pad(presence[shown] > 0.5, (slots.shape[1] - presence.shape[1], 0))
        corners = slots[..., :PRESENT_CORNER, :PRESENT_CORNER]
        green = torch.tensor((0, 255, 0), dtype=torch.uint8).view(3, 1, 1)
        corners.copy_(torch.where(present[..., None, None, None], green, corners))
    wholes = [image, recon] + ([background] if background is not None and background.any() else [])
    rows = [*(to_bytes(pictures[shown]) for pictures in wholes), *slots.unbind(dim=1)]
    return _grid(torch.cat(rows), len(slots), padding=1)


def segmentation_picture(
    image: Float[Tensor, "B 3 H W"],
    recon: Float[Tensor, "B 3 H W"],
    true_labels: Integer[Tensor, "B H W"],
    pred_labels: Integer[Tensor, "B H W"],
) -> UInt8[Tensor, "3 _ _"]:
    return side_by_side(image, recon, colour(true_labels), colour(pred_labels))


def side_by_side(*pictures: Float[Tensor, "B 3 H W"] | UInt8[Tensor, "B 3 H W"]) -> UInt8[Tensor, "3 _ _"]:
    """The tiles of the first image, then those of the second, ..., in rows of 16."""
    tiles = torch.stack([to_bytes(picture) for picture in pictures], dim=1).flatten(0, 1)
    return _grid(tiles, TILES_PER_ROW, padding=2)


def slots_picture(patches: Float[Tensor, "B K 3 H W"]) -> UInt8[Tensor, "3 _ _"]:
    """Every slot of the first image, then those of the second, ..., in rows as long as the batch, at most 32."""
    return _grid(to_bytes(patches).flatten(0, 1), min(MAX_IMAGES, len(patches)), padding=1)


def save_segmentations(
    folder: Path,
    name: str,
    image: Float[Tensor, "B 3 H W"],
    recon: Float[Tensor, "B 3 H W"],
    true_labels: Integer[Tensor, "B H W"],
    pred_labels: Integer[Tensor, "B H W"],
) -> None:
    """Write `<name>_grid.png`, and `<name>_{inp,out,tru,pre}_<index>.png` of the first eight images."""
    parts = {"inp": image, "out": recon, "tru": colour(true_labels), "pre": colour(pred_labels)}
    for part, pictures in parts.items():
        for index, picture in enumerate(to_bytes(pictures[:MAX_FILES])):
            save_png(folder / f"{name}_{part}_{index}.png", picture.permute(1, 2, 0).numpy())
    grid = segmentation_picture(image, recon, true_labels, pred_labels)
    save_png(folder / f"{name}_grid.png", grid.permute(1, 2, 0).numpy())


def to_bytes(pictures: Float[Tensor, "*B 3 H W"] | UInt8[Tensor, "*B 3 H W"]) -> UInt8[Tensor, "*B 3 H W"]:
    """[0, 1] to 0 .. 255, truncated; bytes as they are."""
    return pictures if pictures.dtype == torch.uint8 else (pictures.float().clamp(0, 1) * 255).byte()


def colour(labels: Integer[Tensor, "B H W"]) -> UInt8[Tensor, "B 3 H W"]:
    """Labels in the colours of `label_colours`; labels past its end are white."""
    colours = label_colours()
    return colours[labels.long().clamp(max=len(colours) - 1)].permute(0, 3, 1, 2)


@cache
def label_colours() -> UInt8[Tensor, "60 3"]:
    """Black for the background, strong colours for the first labels, then matplotlib's palettes, then white."""
    maps = [matplotlib.colormaps[name].colors for name in ("tab20b", "tab20c", "Set3")]
    tab20b, tab20c, set3 = (np.rint(255 * np.array(colours)).astype(np.uint8) for colours in maps)
    shades = [palette[hue + shade] for shade in range(4) for hue in range(0, 20, 4) for palette in (tab20b, tab20c)]
    return torch.from_numpy(np.array([*FIRST_COLOURS, *shades, CYAN, MAGENTA, *set3, WHITE], dtype=np.uint8))


def _grid(tiles: UInt8[Tensor, "N 3 H W"], columns: int, padding: int) -> UInt8[Tensor, "3 _ _"]:
    return image_grid(tiles, columns, padding, pad_value=GREY)
