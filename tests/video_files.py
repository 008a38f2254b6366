"""Writes small data sets of videos in the formats on disk that the readers know."""

import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from core.data.run_length import encode_run_lengths


def smooth_frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """[T, H, W, 3] uint8 colour gradients that drift, which a codec keeps well."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves, phases = rng.uniform(-3, 3, (3, 3)), rng.uniform(0, 6, 3)
    frames = [
        np.stack([np.sin(a * x + b * y + c * t / count + phase) for (a, b, c), phase in zip(waves, phases)], axis=-1)
        for t in range(count)
    ]
    return np.rint(127.5 + 120 * np.stack(frames)).astype(np.uint8)


def write_mp4(path: Path, frames: np.ndarray, faststart: bool = False) -> Path:
    """H.264 of high quality at 25 frames a second; with `faststart` the index comes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(
    folder: Path, frames: np.ndarray, name: str = "{:06d}.png", first: int = 0, file_format: str | None = None
) -> Path:
    """One picture per frame, numbered from `first` on; `file_format` overrides what the suffix says."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(number + first), format=file_format)
    return folder


def clevrer_mp4(root: Path, split: str, number: int) -> Path:
    """Where video `number` of CLEVRER lies; they come in folders of a thousand."""
    begin = number // 1000 * 1000
    return root / "videos" / split / f"video_{begin:05d}-{begin + 1000:05d}" / f"video_{number:05d}.mp4"


def touch_clevrer(root: Path, split: str, count: int) -> None:
    """Empty files in the place of videos 0, 1, ..., for lists of clips."""
    for number in range(count):
        path = clevrer_mp4(root, split, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_clevrer_annotation(root: Path, split: str, number: int, inside_view: np.ndarray) -> Path:
    """`inside_view` [frames, objects] as the annotation of a video has it."""
    video = clevrer_mp4(root, split, number)
    folder = root / "annotations" / split / video.parent.name.replace("video", "annotation")
    trajectory = [
        {"frame_id": t, "objects": [{"object_id": o, "inside_camera_view": bool(v)} for o, v in enumerate(row)]}
        for t, row in enumerate(inside_view)
    ]
    return write_json(
        folder / f"annotation_{number:05d}.json",
        {"scene_index": number, "video_filename": video.name, "motion_trajectory": trajectory},
    )


def write_clevrer_proposal(root: Path, number: int, masks: Sequence[Sequence[np.ndarray]]) -> Path:
    """`masks[t]` are the binary masks of frame t."""
    frames = [
        {
            "frame_index": t,
            "objects": [{"mask": {"size": list(mask.shape), "counts": encode_run_lengths(mask)}} for mask in objects],
        }
        for t, objects in enumerate(masks)
    ]
    return write_json(
        root / "derender_proposals" / f"proposal_{number:05d}.json", {"video_index": number, "frames": frames}
    )


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path
