"""Pictures of a training: scenes as the model sees them from all around, one row each."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from core.data.cameras import rotate_about_z, transform_points
from core.data.loader import Batch
from core.metrics.segmentation import foreground_ari, hard_labels
from core.viz.palette import checkerboard, segmentation_picture, truncated_bytes
from osrt.models.light_field import LightField

NUM_ANGLES = 6
CELL, GAP = 128, 4
"""Pixels: what small pictures are enlarged to, about, and what lies between cells."""
TITLE_HEIGHT, LABEL_WIDTH = 18, 132
DEGREES = "\N{DEGREE SIGN}"

Pictures = Float[np.ndarray, "B H W 3"] | Float[np.ndarray, "B H W 4"]


@dataclass
class Grid:
    """Columns of pictures under their titles, and a label for every row, if any."""

    titles: list[str] = field(default_factory=list)
    columns: list[Pictures] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def add(self, title: str, pictures: Pictures) -> None:
        self.titles.append(title)
        self.columns.append(pictures)

    def draw(self) -> UInt8[np.ndarray, "H W 3"]:
        """All in one picture on white; where a picture is transparent a checkerboard shows."""
        rows, height, width = self.columns[0].shape[:3]
        factor = max(1, round(CELL / max(height, width)))
        height, width = height * factor, width * factor
        left = LABEL_WIDTH if self.labels else 0
        size = (left + len(self.columns) * (width + GAP), TITLE_HEIGHT + rows * (height + GAP))
        canvas = Image.new("RGB", size, "white")
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
        for column, (title, pictures) in enumerate(zip(self.titles, self.columns)):
            x = left + column * (width + GAP)
            draw.text((x + width / 2, TITLE_HEIGHT / 2), title, "black", font, anchor="mm")
            for row, picture in enumerate(pictures):
                enlarged = on_checkerboard(picture).repeat(factor, axis=0).repeat(factor, axis=1)
                canvas.paste(Image.fromarray(truncated_bytes(enlarged)), (x, TITLE_HEIGHT + row * (height + GAP)))
        for row, label in enumerate(self.labels):
            y = TITLE_HEIGHT + row * (height + GAP) + height / 2
            draw.text((left / 2, y), label, "black", font, anchor="mm")
        return np.asarray(canvas)


def on_checkerboard(
    picture: Float[np.ndarray, "H W 3"] | Float[np.ndarray, "H W 4"],
) -> Float[np.ndarray, "H W 3"]:
    """A picture whose fourth channel, if it has one, is opacity."""
    if picture.shape[-1] == 3:
        return picture
    colour, opacity = picture[..., :3], picture[..., 3:]
    return opacity * colour + (1 - opacity) * checkerboard(*picture.shape[:2])


@torch.no_grad()
def visualise(
    model: LightField, batch: Batch, max_dist: float, num_angles: int = NUM_ANGLES
) -> UInt8[np.ndarray, "H W 3"]:
    """What the model makes of the scenes of a batch of `cast_rays`, one row each.

    Input views, the true segmentation of the first one, then renders, depths and segmentations, as far as there are
    any, from the camera of the first view, turned about the world's z in equal steps. The label of a row is the FG-ARI
    of the first of them, in percent. max_dist: depth that is white.
    """
    was_training = model.training
    model.eval()
    prepared = model.prepare(model.encode(batch["input_images"], batch["input_camera_pos"], batch["input_rays"]))
    grid = Grid()
    views = batch["input_images"].unbind(1)
    for number, view in enumerate(views, start=1):
        grid.add("input" if len(views) == 1 else f"input {number}", as_pictures(view.movedim(1, -1)))
    masks = batch["input_masks"][:, 0] if "input_masks" in batch else None
    if masks is not None:
        grid.add(f"true seg 0{DEGREES}", segmentation_picture(masks.cpu().numpy()))
    position, rays = batch["input_camera_pos"][:, 0], batch["input_rays"][:, 0]
    for number in range(num_angles):
        angle = 2 * math.pi * number / num_angles
        degrees = f"{round(math.degrees(angle))}{DEGREES}"
        rendered = model.render(prepared, *turned(position, rays, angle, batch.get("transform")))
        grid.add(f"render {degrees}", as_pictures(rendered.pixels))
        if rendered.depths is not None:
            depths = (rendered.depths / max_dist).clamp(0, 1)
            grid.add(f"depths {degrees}", as_pictures(depths.unsqueeze(-1).expand(*depths.shape, 3)))
        if rendered.segmentation is not None:
            labels = hard_labels(rendered.segmentation.movedim(-1, 1))
            # Every slot has a colour; black is for what has none.
            num_slots = rendered.segmentation.shape[-1]
            grid.add(f"pred seg {degrees}", segmentation_picture(labels.cpu().numpy() + 1, num_slots))
            if number == 0 and masks is not None:
                grid.labels = row_labels(masks, labels)
    model.train(was_training)
    return grid.draw()


def turned(
    position: Float[Tensor, "B 3"],
    rays: Float[Tensor, "B H W 3"],
    angle: float,
    transforms: Float[Tensor, "B 4 4"] | None = None,
) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B H W 3"]]:
    """Cameras after a turn about the world's z axis; `transforms` take the world to the coordinates of each scene."""
    if transforms is None:
        return rotate_about_z(position, angle), rotate_about_z(rays, angle)
    moved = []
    for transform, place, directions in zip(transforms.double(), position, rays):
        back = transform.inverse()
        place = rotate_about_z(transform_points(back, place), angle)
        directions = rotate_about_z(transform_points(back, directions, translate=False), angle)
        moved.append((transform_points(transform, place), transform_points(transform, directions, translate=False)))
    places, views = zip(*moved)
    return torch.stack(places), torch.stack(views)


def row_labels(masks: Integer[Tensor, "B H W"], labels: Integer[Tensor, "B H W"]) -> list[str]:
    """How well the first view of each scene is segmented, by its true labels and the predicted ones."""
    scores = foreground_ari(masks, labels, undefined=1.0)
    return [f"2D Fg-ARI={100 * score:.1f}" for score in scores.tolist()]


def as_pictures(values: Float[Tensor, "B H W C"]) -> Pictures:
    return values.float().clamp(0, 1).double().cpu().numpy()
