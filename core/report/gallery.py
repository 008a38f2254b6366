"""Pictures of decompositions for the page: strips of frames, and of every slot its mask and its own picture."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from PIL import Image
from torch import Tensor

from core.types import Decomposition
from core.viz.colours import colour_labels, colour_masks, slot_colours

MOST_PIXELS = 128
"""Longer side of a picture on the page; larger ones are shrunk by means over areas."""
MOST_FRAMES = 24
"""Of a video, from its beginning."""
MOST_SLOTS = 16
"""That are shown one by one; of a model with more, the smallest ones together are the last."""
EPSILON = 1e-6


@dataclass(frozen=True)
class Layers:
    """Pictures and masks of the slots, whose products' sum is the picture that they make together."""

    names: list[str]
    colours: Float[Tensor, "K 3"]
    masks: Float[Tensor, "T K H W"]
    rgb: Float[Tensor, "T K 3 H W"] | None


def draw_sample(
    number: int,
    image: Float[Tensor, "T 3 H W"],
    decomposition: Decomposition,
    truth: Integer[Tensor, "T H_true W_true"] | None = None,
) -> dict[str, Any]:
    """One sample as JSON for the page; pictures are lossless WebP in data URIs, frames side by side, slots below.

    image is what the model saw, at its resolution and in [0, 1]; the decomposition is of this sample alone, its frame
    axis included. Truth is of any size, 0 being the background.

    Raises ValueError for a decomposition of another number of frames or another size.
    """
    found = decomposition.detach().cpu()
    if found.recon.shape != (1, *image.shape):
        raise ValueError(
            f"sample {number}: expected a recon of the shape (1, {', '.join(map(str, image.shape))}), "
            f"found {tuple(found.recon.shape)}"
        )
    image = image[:MOST_FRAMES].detach().float().cpu()
    masks = found.masks[0, :MOST_FRAMES].float()
    rgb = None if found.rgb is None else found.rgb[0, :MOST_FRAMES].float().clamp(0, 1)
    height, width = size_on_page(*image.shape[-2:])
    layers = largest_layers(shrunk_layers(masks, rgb, (height, width)))
    strips = {
        "input": shrunk(image, (height, width)),
        "prediction": colour_masks(shrunk(masks, (height, width))),
        "reconstruction": shrunk(found.recon[0, :MOST_FRAMES].float().clamp(0, 1), (height, width)),
    }
    if truth is not None:
        strips["truth"] = draw_truth(truth[:MOST_FRAMES].cpu(), (height, width))
    return {
        "number": number,
        "width": width,
        "height": height,
        "frames": len(image),
        "strips": {name: data_uri(in_a_row(frames)) for name, frames in strips.items()},
        "slots": [
            {"name": name, "colour": hexadecimal(colour), "share": round(float(share), 4)}
            for name, colour, share in zip(layers.names, layers.colours, layers.masks.mean(dim=(0, 2, 3)))
        ],
        "masks": data_uri(atlas(layers.masks.unsqueeze(2))),
        "rgb": None if layers.rgb is None else data_uri(atlas(layers.rgb)),
    }


def size_on_page(height: int, width: int) -> tuple[int, int]:
    """Height and width that a picture has on the page."""
    scale = min(1.0, MOST_PIXELS / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def shrunk(pictures: Float[Tensor, "T C H W"], size: tuple[int, int]) -> Float[Tensor, "T C H2 W2"]:
    return pictures if pictures.shape[-2:] == size else F.interpolate(pictures, size, mode="area")


def shrunk_layers(
    masks: Float[Tensor, "T K H W"], rgb: Float[Tensor, "T K 3 H W"] | None, size: tuple[int, int]
) -> Layers:
    """All slots at the size of the page; pictures are averaged with masks as weights, so that products add up."""
    num_slots = masks.shape[1]
    small = shrunk(masks, size)
    if rgb is not None and rgb.shape[-2:] != size:
        products = F.interpolate((masks.unsqueeze(2) * rgb).flatten(1, 2), size, mode="area")
        rgb = products.unflatten(1, (num_slots, 3)) / small.unsqueeze(2).clamp_min(EPSILON)
    return Layers([f"slot {slot}" for slot in range(num_slots)], slot_colours(num_slots), small, rgb)


def largest_layers(layers: Layers, most: int = MOST_SLOTS) -> Layers:
    """At most `most` layers: the largest ones in their order, and all others as one."""
    if len(layers.names) <= most:
        return layers
    order = layers.masks.mean(dim=(0, 2, 3)).argsort(descending=True, stable=True)
    kept, rest = order[: most - 1].sort().values, order[most - 1 :].sort().values
    mask = layers.masks[:, rest].sum(dim=1, keepdim=True)
    rgb = layers.rgb
    if rgb is not None:
        product = (layers.masks[:, rest].unsqueeze(2) * rgb[:, rest]).sum(dim=1, keepdim=True)
        rgb = torch.cat([rgb[:, kept], product / mask.unsqueeze(2).clamp_min(EPSILON)], dim=1)
    return Layers(
        [layers.names[slot] for slot in kept.tolist()] + [f"{len(rest)} smaller ones"],
        torch.cat([layers.colours[kept], torch.full((1, 3), 0.5)]),
        torch.cat([layers.masks[:, kept], mask], dim=1),
        rgb,
    )


def draw_truth(labels: Integer[Tensor, "T H W"], size: tuple[int, int]) -> Float[Tensor, "T 3 H2 W2"]:
    nearest = F.interpolate(labels.unsqueeze(1).float(), size, mode="nearest-exact").squeeze(1).long()
    return colour_labels(nearest, num_objects=max(int(nearest.max()), 1))


def in_a_row(frames: Float[Tensor, "T C H W"]) -> Float[Tensor, "C H T_W"]:
    return frames.permute(1, 2, 0, 3).flatten(2)


def atlas(layers: Float[Tensor, "T K C H W"]) -> Float[Tensor, "C K_H T_W"]:
    """A row of frames per slot."""
    return layers.permute(2, 1, 3, 0, 4).flatten(3).flatten(1, 2)


def to_bytes(picture: Float[Tensor, "C H W"]) -> UInt8[np.ndarray, "H W C"]:
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def data_uri(picture: Float[Tensor, "C H W"]) -> str:
    """A lossless WebP in the text itself: a page from file:// may then read its pixels, which it may not of files."""
    pixels, buffer = to_bytes(picture), io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "WEBP", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def hexadecimal(colour: Float[Tensor, 3]) -> str:
    return "#" + "".join(f"{round(255 * value):02x}" for value in colour.tolist())
