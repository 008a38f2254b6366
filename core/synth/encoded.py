"""Pictures as the bytes of their files."""

import io

import numpy as np
from PIL import Image


def png(picture: np.ndarray) -> bytes:
    """A picture as the bytes of a PNG file."""
    return _encoded(Image.fromarray(picture), "PNG")


def jpeg(picture: np.ndarray) -> bytes:
    """A picture as the bytes of a JPEG file, of Pillow's usual quality."""
    return _encoded(Image.fromarray(picture), "JPEG")


def palette_png(labels: np.ndarray) -> bytes:
    """A label map as the bytes of a PNG file with VOC's palette: black, maroon, green, olive, navy, ..."""
    numbers = np.arange(256)
    channels = np.zeros((256, 3), np.uint8)
    for bit in range(8):  # a colour's bits are every third bit of its number, the lowest of them first
        for channel in range(3):
            channels[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    picture = Image.fromarray(labels)
    picture.putpalette(channels.ravel().tolist())
    return _encoded(picture, "PNG")


def _encoded(picture: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format)
    return buffer.getvalue()
