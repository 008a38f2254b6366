"""Make videos of the frames of a rendered scene.

    python osrt/compile_video.py osrt/runs/clevr3d/osrt/render/rotate/0 --plot

PATH is the folder of one scene, as osrt/render.py writes it. Without --plot its renders become video-renders.mp4. With
--plot an input view, render and segmentation are drawn side by side into frames/ and become video.mp4. ffmpeg is not
needed. Exit codes: 0 done, 1 error, 2 misuse, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from core.commandline import StrictParser
from core.data.errors import DataError
from core.files import replacing
from core.outcome import exit_code_of
from core.viz.gifs import save_gif
from core.viz.videos import encode_mp4
from osrt.plots import REMEDY, draw_plots, numbered_pictures, open_picture

FPS = 60
BIT_RATE = 1_000_000
GIF_STEP = 2  # gifs cannot play 60 frames a second: they show every second one


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser("osrt/compile_video.py", __doc__)
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of one rendered scene")
    parser.add_argument("--plot", action="store_true", help="input, render and segmentation side by side")
    parser.add_argument("--noframes", action="store_true", help="with --plot: take the frames that are drawn already")
    what = "write the video as a gif, too, which shows every second frame"
    parser.add_argument("--gif", action="store_true", help=what)
    arguments = parser.parse(words)
    if arguments.noframes and not arguments.plot:
        parser.error("--noframes: say --plot, too; without it there are no frames to draw")
    return arguments


def write_plot_video(folder: Path, limit: int | None = None, *, draw: bool = True, gif: bool = False) -> Path:
    """`folder`/video.mp4 of the plots of at most `limit` frames, which are drawn first unless that is done already."""
    frames = draw_plots(folder, limit) if draw else read_frames(folder / "frames", limit)
    return write_video(folder / "video.mp4", frames, gif)


def write_render_video(folder: Path, *, gif: bool = False) -> Path:
    """`folder`/video-renders.mp4 of all renders."""
    return write_video(folder / "video-renders.mp4", read_frames(folder / "renders"), gif)


def read_frames(folder: Path, limit: int | None = None) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The pictures 0.png, 1.png, ... of a folder. Raises DataError if there is none, or one is damaged."""
    paths = numbered_pictures(folder, limit)
    first = next(paths, None)
    if first is None:
        raise DataError(f"{folder / '0.png'}: no such file. {REMEDY}")
    yield np.asarray(open_picture(first).convert("RGB"))
    for path in paths:
        yield np.asarray(open_picture(path).convert("RGB"))


def write_video(path: Path, frames: Iterable[UInt8[np.ndarray, "H W 3"]], gif: bool) -> Path:
    """60 frames a second in H.264, yuv420p, 1 Mbit/s; with `gif` also a file beside it that shows every second frame.

    An odd last row or column is repeated, since the format wants even sizes.
    """
    kept: list[UInt8[np.ndarray, "H W 3"]] = []

    def passed_on() -> Iterator[UInt8[np.ndarray, "H2 W2 3"]]:
        for number, frame in enumerate(frames):
            if gif and number % GIF_STEP == 0:
                kept.append(frame)
            yield np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")

    encoded = encode_mp4(passed_on(), FPS, BIT_RATE)
    with replacing(path) as partial:
        partial.write_bytes(encoded)
    if gif:
        save_gif(path.with_suffix(".gif"), np.stack(kept), FPS / GIF_STEP)
    return path


def main(words: Sequence[str]) -> int:
    """Compile as the command line says; the exit code."""
    arguments = parse_arguments(words)

    def compile_video() -> int:
        if arguments.plot:
            path = write_plot_video(arguments.path, draw=not arguments.noframes, gif=arguments.gif)
        else:
            path = write_render_video(arguments.path, gif=arguments.gif)
        print(path)
        return 0

    return exit_code_of(compile_video)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
