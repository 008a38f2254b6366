"""Video files."""

from __future__ import annotations

import io
from collections.abc import Iterable
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


class Mp4Encoder:
    """Makes an mp4 of H.264 of frames that come one by one. Height and width must be even.

    Colours keep half of their resolution (yuv420p), which is what players expect. bit_rate: bits per second that the
    encoder aims at. Unless given, quality is constant and high, and the same pictures give the same bytes.
    """

    def __init__(self, fps: float, bit_rate: int | None = None):
        self._buffer = io.BytesIO()
        self._container = av.open(self._buffer, "w", format="mp4", options={"fflags": "+bitexact"})
        self._rate = Fraction(fps).limit_denominator(1000)
        self._bit_rate = bit_rate
        self._stream: av.VideoStream | None = None

    def add(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        stream = self._stream = self._stream or self._begun(*frame.shape[:2])
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._container.mux(stream.encode(picture))

    def finish(self) -> bytes:
        """The content of the file. Raises ValueError without frames."""
        if self._stream is None:
            raise ValueError("a video needs at least one frame, found none")
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._buffer.getvalue()

    def _begun(self, height: int, width: int) -> av.VideoStream:
        options = ENCODER if self._bit_rate is None else {}
        stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if self._bit_rate is not None:
            stream.bit_rate = self._bit_rate
        return stream


def encode_mp4(frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float, bit_rate: int | None = None) -> bytes:
    """An mp4 of all frames; see Mp4Encoder. Raises ValueError without frames."""
    encoder = Mp4Encoder(fps, bit_rate)
    for frame in frames:
        encoder.add(frame)
    return encoder.finish()
