"""What a prediction writes about each picture or video: masks, overlays, reconstructions, a panel, areas and boxes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image
from torch import Tensor

from core.benchmark.resizing import labels_at
from core.benchmark.seen_files import Picture, SeenFile
from core.files import replacing
from core.types import Decomposition
from core.viz.colours import slot_colours
from core.viz.overlays import overlay
from core.viz.panels import panel, save_png
from core.viz.videos import Mp4Encoder

MASKS, OVERLAYS, RECONSTRUCTIONS, PANELS = "masks", "overlays", "reconstructions", "panels"
FRAMES_OF_PANEL = 8
LEAST_SHARE = 0.005
"""Of the pixels: what a slot must own to count as used."""
LARGEST_INDEX = 255


def save_index_map(path: Path, labels: Integer[np.ndarray, "H W"], num_slots: int) -> None:
    """A PNG whose values are slots: a palette picture in the slots' colours, grey with 16 bits for more than 256."""
    if num_slots > LARGEST_INDEX + 1:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        picture = Image.fromarray(labels.astype(np.uint8))
        picture.putpalette((slot_colours(num_slots) * 255).round().byte().flatten().tolist())
    with replacing(path) as partial:
        picture.save(partial, format="PNG")


def describe(labels: Integer[np.ndarray, "H W"], num_slots: int) -> dict[str, Any]:
    """Shares of the pixels, and boxes (left, top, right, bottom; the last two exclusive), of the slots that own any."""
    slots = []
    for slot in np.flatnonzero(np.bincount(labels.ravel(), minlength=num_slots)).tolist():
        rows, columns = np.nonzero(labels == slot)
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        slots.append({"slot": slot, "area": round(len(rows) / labels.size, 6), "box": box})
    return {"slots_used": sum(entry["area"] >= LEAST_SHARE for entry in slots), "slots": slots}


def even(picture: Picture) -> Picture:
    """With the last row and column repeated where their number is odd, as videos need it."""
    height, width, _ = picture.shape
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def to_pictures(recon: Float[Tensor, "T 3 H W"]) -> UInt8[np.ndarray, "T H W 3"]:
    return (recon.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def files_of(entry: Mapping[str, Any]) -> set[str]:
    """Of an entry of predictions.json the files beside it, by their paths below its folder."""
    name, frames = entry["name"], entry.get("frames")
    if frames is None:
        return {f"{part}/{name}.png" for part in (MASKS, OVERLAYS, RECONSTRUCTIONS, PANELS)}
    masks = {f"{MASKS}/{name}/{number:06d}.png" for number in range(len(frames))}
    return masks | {f"{OVERLAYS}/{name}.mp4", f"{RECONSTRUCTIONS}/{name}.mp4", f"{PANELS}/{name}.png"}


class FileWriter:
    """Writes the files of one picture or video into the folder `out` while its frames come in.

    Masks and overlays have the size of the input, reconstructions and panels that of the model.
    """

    def __init__(self, out: Path, file: SeenFile):
        self.out = out
        self.file = file
        self.is_video = file.kind == "videos"
        self.slots: list[np.ndarray] = []
        self._frames: list[dict[str, Any]] = []
        self._size: tuple[int, int] = (0, 0)
        self._encoders = {part: Mp4Encoder(file.fps) for part in (OVERLAYS, RECONSTRUCTIONS)} if self.is_video else {}
        chosen = np.linspace(0, file.num_frames - 1, min(FRAMES_OF_PANEL, file.num_frames))
        self._shown = set(chosen.round().astype(int).tolist())
        self._panel: list[tuple[Tensor, Decomposition]] = []

    def add(self, pictures: list[Picture], seen: Float[Tensor, "T 3 h w"], found: Decomposition) -> None:
        """The next frames, what the model saw of them, and what it says: a Decomposition (1, T, ...)."""
        found = found.cpu()
        recon = to_pictures(found.recon[0])
        for number, picture in enumerate(pictures):
            frame = len(self._frames)
            labels = labels_at(found.masks[:, number].float(), picture.shape[:2])[0].numpy()
            self._size = picture.shape[:2]
            self._frames.append(describe(labels, found.num_slots))
            self._write(labels, overlay(picture, labels + 1, found.num_slots), recon[number], frame, found.num_slots)
            if frame in self._shown:
                rgb = None if found.rgb is None else found.rgb[:, number]
                part = Decomposition(found.recon[:, number], found.masks[:, number], rgb)
                self._panel.append((seen[number : number + 1], part))
        if found.slots is not None:
            self.slots.append(found.slots[0].float().numpy())

    def finish(self) -> dict[str, Any]:
        """Write what is made of all frames; gives the entry of predictions.json."""
        for part, encoder in self._encoders.items():
            with replacing(self.out / part / f"{self.file.name}.mp4") as partial:
                partial.write_bytes(encoder.finish())
        save_png(self.out / PANELS / f"{self.file.name}.png", self._draw_panel())
        entry = {"name": self.file.name, "size": list(self._size)}
        return {**entry, "frames": self._frames} if self.is_video else {**entry, **self._frames[0]}

    def _draw_panel(self) -> Picture:
        """A row for every chosen frame."""
        images, parts = zip(*self._panel)
        rgb = None if parts[0].rgb is None else torch.cat([part.rgb for part in parts])
        recon, masks = (torch.cat([getattr(part, name) for part in parts]) for name in ("recon", "masks"))
        return panel(torch.cat(images), Decomposition(recon, masks, rgb), max_images=FRAMES_OF_PANEL)

    def _write(
        self,
        labels: Integer[np.ndarray, "H W"],
        overlaid: Picture,
        recon: UInt8[np.ndarray, "h w 3"],
        frame: int,
        num_slots: int,
    ) -> None:
        place = f"{self.file.name}/{frame:06d}.png" if self.is_video else f"{self.file.name}.png"
        save_index_map(self.out / MASKS / place, labels, num_slots)
        for part, picture in ((OVERLAYS, overlaid), (RECONSTRUCTIONS, recon)):
            if self.is_video:
                self._encoders[part].add(even(picture))
            else:
                save_png(self.out / part / place, picture)
