"""Video files."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain

import av
import numpy as np
from jaxtyping import UInt8

ENCODER = {
    "qp": "14",  # 0 is lossless, 51 the worst
    "preset": "medium",
    # Frame types and rates are fixed: x264's look at later frames does not give the same bytes on every run.
    "x264-params": "b-adapt=0:scenecut=0:rc-lookahead=0:mbtree=0:aq-mode=0",
}


def encode_mp4(frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float, bit_rate: int | None = None) -> bytes:
    """An mp4 of H.264. Height and width must be even.

    Colours keep half of their resolution (yuv420p), which is what players expect. bit_rate: bits per second that the
    encoder aims at. Unless given, quality is constant and high, and the same pictures give the same bytes.

    Raises ValueError without frames.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("a video needs at least one frame, found none")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        options = ENCODER if bit_rate is None else {}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        for frame in chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
