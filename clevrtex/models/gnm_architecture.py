"""Sizes and layers of GNM."""

import math
from dataclasses import dataclass

from clevrtex.models.cells import check_image_size
from clevrtex.models.celu_layers import Layer

NUM_CELLS = 4
SMALLEST, LARGEST = 32, 1024


@dataclass(frozen=True)
class Architecture:
    """The layers of every network, the last ones of the MLPs aside; they follow from the sizes of latent variables.

    The encoder shrinks the image to `num_cells` along each side, each of which has one object. The canvas of structured
    DRAW has as many channels as the encoder.
    """

    encoder: tuple[Layer, ...]
    background_decoder: tuple[Layer, ...]
    what_decoder: tuple[Layer, ...] = tuple(Layer(channels, 3, 2) for channels in (128, 64, 32, 16, 8, 4))
    local: tuple[Layer, ...] = (Layer(128), Layer(128))
    num_cells: int = NUM_CELLS
    draw_steps: int = 4
    draw_kernel: int = 1
    encoder_hidden: int = 128
    decoder_hidden: int = 128
    canvas_update: tuple[Layer, ...] = (Layer(128, 3),)
    global_decoder: tuple[int, ...] = (512, 1024)
    global_posterior: tuple[int, ...] = (512, 512)
    global_prior: tuple[int, ...] = (512, 512)
    background_prior: tuple[int, ...] = (128, 64)
    background_posterior: tuple[int, ...] = (512, 256)

    @classmethod
    def for_images(cls, image_size: tuple[int, int]) -> "Architecture":
        """The published layers for 128x128, fewer or more of them for other squares. Raises ValueError."""
        check_image_size(image_size, SMALLEST, LARGEST, "GNM")
        side = image_size[0]
        halvings = int(math.log2(side // NUM_CELLS))
        widths = [min(16 * 2**level, 128) for level in range(halvings - 1)]
        pairs = [layer for width in widths for layer in (Layer(width, 4, 2), Layer(width, 3, 1))]
        # Five layers double the background's side; the first, third, ... double it twice until it is the image's.
        scales = [2] * 5
        for level in (0, 2, 1, 3, 4)[: int(math.log2(side)) - 5]:
            scales[level] = 4
        enlarging = [Layer(width, 1, scale) for width, scale in zip((128, 64, 32, 16, 8), scales)]
        return cls(encoder=(*pairs, Layer(128, 4, 2)), background_decoder=(*enlarging, Layer(3, 3)))
