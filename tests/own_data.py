"""Writes folders of pictures and videos as people have them."""

from pathlib import Path

import av
import numpy as np
from PIL import Image


def discs(number: int, size: tuple[int, int], time: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A picture [H, W, 3] of two discs that move, and its label map [H, W] of 0, 1, 2."""
    height, width = size
    y, x = np.mgrid[:height, :width] / min(height, width)
    labels = np.zeros(size, np.uint8)
    labels[(y - 0.3) ** 2 + (x - 0.25 - 0.02 * time) ** 2 < 0.03] = 1
    labels[(y - 0.7 + 0.02 * time) ** 2 + (x - 0.65) ** 2 < 0.04] = 2
    colours = np.random.default_rng(number).integers(60, 256, (3, 3), np.uint8)
    colours[0] //= 4
    return colours[labels], labels


def write_pictures(folder: Path, count: int, size: tuple[int, int], masks: Path | None = None) -> Path:
    """`picture_1.png`, ..., and label maps of the same names."""
    for place in filter(None, (folder, masks)):
        place.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture, labels = discs(number, size)
        Image.fromarray(picture).save(folder / f"picture_{number + 1}.png")
        if masks:
            Image.fromarray(labels).save(masks / f"picture_{number + 1}.png")
    return folder


def write_frame_folders(
    folder: Path, count: int, length: int, size: tuple[int, int], masks: Path | None = None
) -> Path:
    """`clip_1/frame_1.png`, ..., and label maps of the same names."""
    for video in range(count):
        for place in filter(None, (folder, masks)):
            (place / f"clip_{video + 1}").mkdir(parents=True, exist_ok=True)
        for time in range(length):
            picture, labels = discs(video, size, time)
            name = f"clip_{video + 1}/frame_{time + 1}.png"
            Image.fromarray(picture).save(folder / name)
            if masks:
                Image.fromarray(labels).save(masks / name)
    return folder


def write_video(path: Path, frames: np.ndarray) -> Path:
    """A video file of a code that suits its ending."""
    if path.suffix == ".gif":
        first, *others = (Image.fromarray(frame) for frame in frames)
        first.save(path, save_all=True, append_images=others, duration=40)
        return path
    code = {".webm": "libvpx", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(code, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
