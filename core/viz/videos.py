"""Video files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

ENCODER = {
    "qp": "14",  # 0 is lossless, 51 the worst
    "preset": "medium",
    # Frame types and rates are fixed: x264's look at later frames does not give the same bytes on every run.
    "x264-params": "b-adapt=0:scenecut=0:rc-lookahead=0:mbtree=0:aq-mode=0",
}


def encode_mp4(frames: Sequence[UInt8[np.ndarray, "H W 3"]], fps: float) -> bytes:
    """An mp4 of H.264: the same pictures give the same bytes. Height and width must be even.

    Colours keep half of their resolution (yuv420p), which is what players expect.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=ENCODER)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
