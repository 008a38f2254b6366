"""Pictures of a training of MarioNette, under its own names, as uint8 (3, H_out, W_out).

Shapes as in clevrtex.models.marionette.
"""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from clevrtex.framework.pictures import to_bytes
from clevrtex.models.marionette import Inference, MarioNette
from clevrtex.models.sprite_layers import composite, from_back_to_front
from core.nn.noise import Noise
from core.viz.panels import image_grid

SQUARE = 8
DARK, BRIGHT = 0.8, 1.0
GAIN = 4
MAX_IMAGES = 8
SPRITES_PER_ROW = 15
PADDING = 2


def checkerboard(height: int, width: int) -> Float[Tensor, "3 H W"]:
    """Squares of 8 pixels, which shows through where a picture has alpha below one."""
    rows, columns = torch.arange(height) // SQUARE, torch.arange(width) // SQUARE
    is_bright = (rows[:, None] + columns) % 2 == 1
    return torch.where(is_bright, BRIGHT, DARK).expand(3, -1, -1)


def training_pictures(
    model: MarioNette, image: Float[Tensor, "B 3 S S"], noise: Noise
) -> dict[str, UInt8[Tensor, "3 _ _"]]:
    """The pictures of a batch.

    out_output_diff       a row per image: input, output, four times the difference, every layer on a checkerboard
    out_hard_output_diff  the same with hard choices
    dictionary            all sprites on a checkerboard, those of similar codes together
    background            the learned backgrounds, or the constant one
    """
    image = image[:MAX_IMAGES]
    with torch.no_grad():
        found = model(image)
        order = model.draw_order(len(image), noise, image.device)
        sprites, codes = model.dictionary()
        backgrounds = model.background()[0] if model.num_backgrounds else found.background[:1]
        return {
            "out_output_diff": output_picture(model, found, image, order),
            "out_hard_output_diff": output_picture(model, found.hardened(), image, order),
            "dictionary": dictionary_picture(sprites, codes),
            "background": _grid(backgrounds, SPRITES_PER_ROW),
        }


def output_picture(
    model: MarioNette, found: Inference, image: Float[Tensor, "B 3 S S"], order: Int64[Tensor, "B 4"]
) -> UInt8[Tensor, "3 _ _"]:
    recon = model.reconstruct(found, order)
    board = checkerboard(*image.shape[2:]).to(image.device).expand_as(image)
    layers = [
        composite(from_back_to_front(layer[:, None], order), board) for layer in model.lay_out(found).unbind(dim=1)
    ]
    columns = [image, recon, GAIN * (image - recon).abs(), *layers]
    return _grid(torch.stack(columns, dim=1).flatten(0, 1), len(columns))


def dictionary_picture(sprites: Float[Tensor, "C 4 P P"], codes: Float[Tensor, "C D"]) -> UInt8[Tensor, "3 _ _"]:
    sprites = sprites[by_similarity(codes)]
    board = checkerboard(*sprites.shape[2:]).to(sprites.device)
    return _grid(torch.lerp(board, sprites[:, :3], sprites[:, 3:]), SPRITES_PER_ROW)


def by_similarity(codes: Float[Tensor, "C D"]) -> Int64[Tensor, "C"]:
    """The order of the codes on a line that t-SNE lays them on; of fewer than four as they are."""
    if len(codes) < 4:
        return torch.arange(len(codes))
    from sklearn.manifold import TSNE  # slow to import, and seldom needed

    line = TSNE(n_components=1, perplexity=min(30, (len(codes) - 1) / 3), random_state=0)
    return torch.from_numpy(line.fit_transform(codes.cpu().numpy())[:, 0]).argsort()


def _grid(pictures: Float[Tensor, "N 3 H W"], columns: int) -> UInt8[Tensor, "3 _ _"]:
    return image_grid(to_bytes(pictures.cpu()), columns, PADDING, pad_value=255)
