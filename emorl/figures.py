"""Figures of the paper's kind (Emami et al. 2021, figures 3 and 6), from the files of `sample_viz`.

`rinfo` is the content of one rinfo_{i}.pkl, see `emorl.evals.sample_viz.export`. T steps, K slots, Z dimensions.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.metrics.activeness import SlotDecoder, linspaces, traverse
from core.viz.colours import slot_colours

CELL = 1.1  # inches
FRAME = 3  # points


def inference_figure(rinfo: dict[str, Any], steps: Sequence[int] | None = None, attention: bool = False) -> Figure:
    """One row per step of inference (all of them by default; negative numbers count from the end).

    Columns: image, reconstruction, mask in slot colours, then every slot's part on white, framed in its colour. With
    `attention` there is a column of the attention in slot colours, and slots show the image where they attend.

    Raises IndexError for a step that is not there.
    """
    outputs, image = rinfo["outputs"], rinfo["data"]["image"][0]
    num_steps, num_slots = outputs["pred_mask"].shape[1:3]
    colours = slot_colours(num_slots).numpy()
    chosen = range(num_steps) if steps is None else [range(num_steps)[step] for step in steps]
    titles = [
        "image",
        "recons",
        "mask",
        *(["attention"] if attention else []),
        *(f"slot {k}" for k in range(num_slots)),
    ]
    figure, rows = _cells(len(chosen), len(titles))
    for row, step in zip(rows, chosen):
        masks, maps = outputs["pred_mask"][0, step], outputs["attention"][0, step]
        pictures = [image, outputs["recons"][0, step], _coloured(masks, colours)]
        parts = outputs["components"][0, step]
        if attention:
            share = maps / maps.sum(axis=0, keepdims=True)
            pictures.append(_coloured(share, colours))
            parts = share * image + (1 - share)
        for axes, picture in zip(row, [*pictures, *parts]):
            _show(axes, picture)
        for axes, colour in zip(row[len(pictures) :], colours):
            _frame(axes, colour)
        row[0].set_ylabel(f"step {step}", fontsize=8)
    for axes, title in zip(rows[0], titles):
        axes.set_title(title, fontsize=8)
    return figure


def panel_figure(
    rinfo: dict[str, Any],
    decode: SlotDecoder,
    ranges: Float[np.ndarray, "Z 2"],
    slot: int,
    dimensions: Sequence[int],
    num_values: int = 6,
) -> Figure:
    """The last step of inference, and below it what each of `dimensions` of one slot does to the picture.

    `decode` is the model's `decode_slots`; a dimension takes `num_values` values evenly spaced in its range.
    Raises ValueError if there is no slot of that number.
    """
    outputs = rinfo["outputs"]
    codes = torch.from_numpy(outputs["slots"][0, -1])
    num_slots = len(codes)
    colours = slot_colours(num_slots).numpy()
    values = linspaces(*torch.as_tensor(ranges).unbind(dim=1), num_values)
    moved = traverse(decode, codes, slot, values).permute(0, 1, 3, 4, 2).numpy()
    figure, rows = _cells(1 + len(dimensions), max(3 + num_slots, num_values))
    top = [rinfo["data"]["image"][0], outputs["recons"][0, -1], _coloured(outputs["pred_mask"][0, -1], colours)]
    top += list(outputs["components"][0, -1])
    titles = ["image", "recons", "mask", *(f"slot {k}" for k in range(num_slots))]
    for axes, picture, title in zip(rows[0], top, titles):
        _show(axes, picture)
        axes.set_title(title, fontsize=8)
    for axes, colour in zip(rows[0][3:], colours):
        _frame(axes, colour)
    for row, dimension in zip(rows[1:], dimensions):
        for axes, picture in zip(row, moved[dimension]):
            _show(axes, picture)
        row[0].set_ylabel(f"z{dimension}", fontsize=8)
        _frame(row[0], colours[slot])
    return figure


def _cells(num_rows: int, num_columns: int) -> tuple[Figure, list[list[Axes]]]:
    figure, cells = plt.subplots(
        num_rows, num_columns, squeeze=False, figsize=(CELL * num_columns, CELL * num_rows), layout="constrained"
    )
    for axes in cells.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure, [list(row) for row in cells]


def _show(axes: Axes, picture: Float[np.ndarray, "H W 3"]) -> None:
    axes.imshow(picture.clip(0, 1), interpolation="nearest")


def _frame(axes: Axes, colour: Float[np.ndarray, "3"]) -> None:
    axes.spines[:].set(visible=True, color=colour, linewidth=FRAME)


def _coloured(masks: Float[np.ndarray, "K H W 1"], colours: Float[np.ndarray, "K 3"]) -> Float[np.ndarray, "H W 3"]:
    return (masks * colours[:, None, None]).sum(axis=0)
