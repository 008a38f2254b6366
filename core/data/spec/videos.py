"""How data strings open videos: whole, or their frames as pictures."""

import re
from collections.abc import Callable
from typing import Any

from core.data.clevrer import Clevrer
from core.data.clip_reader import ClipReader
from core.data.folder import count_frames
from core.data.movi import STEVE_LEVELS, Movi
from core.data.obj3d import Obj3D, has_masks
from core.data.phyre import Phyre
from core.data.phyre_trials import NUM_TEMPLATES
from core.data.physion import Physion
from core.data.spec.datasets import Request
from core.data.spec.sources import Framed, first_frames

SIZE = (128, 128)
"""Height and width of frames; those of an mp4 pass through this size in any case."""
PHYRE_FRAMES, PHYRE_ACTIONS = 15, 40
FRAME = re.compile(r"(test_\d+|\d{6}|\d{8}_image)\.(jpg|png)")

Clips = Callable[..., ClipReader]
"""Opens clips of `num_frames` frames of videos of `video_len` frames, of height and width `size`."""


def whole_videos(request: Request, clips: Clips, most: int) -> ClipReader:
    """The first `frames` frames of every video; if None as many as the first video has, at most `most`."""
    frames = request.frames or _available(request, clips, most)
    return clips(request, num_frames=frames, video_len=frames, size=request.framing.size or SIZE)


def single_frames(request: Request, clips: Clips, most: int) -> Framed:
    """The pictures that a model of videos sees: of all frames in training, of the frames that a split chooses else."""
    source = clips(request, num_frames=1, video_len=_available(request, clips, most), size=SIZE)
    return Framed(source, range(len(source)), request.framing, request.masks, first_frames)


def _available(request: Request, clips: Clips, most: int) -> int:
    """The frames of the first video."""
    source = clips(request, num_frames=1, video_len=1, size=SIZE).sources[0]
    if source.is_dir():
        found = sum(1 for entry in source.iterdir() if FRAME.fullmatch(entry.name))
    else:
        found = count_frames(source)
    return max(1, min(found, most))


def movi_clips(request: Request, **clips: Any) -> Movi:
    level = request.variant.capitalize()
    root = request.find(f"MOVi-{level}").parent
    return Movi(root, level, request.split, **clips, masks=request.needs_labels)


def movi_videos(request: Request, **clips: Any) -> Movi:
    """With masks where there are any."""
    level = request.variant.capitalize()
    root = request.find(f"MOVi-{level}").parent
    masks = not (level in STEVE_LEVELS and request.split == "val")
    return Movi(root, level, request.split, **clips, masks=masks)


def obj3d_clips(request: Request, **clips: Any) -> Obj3D:
    return Obj3D(request.find("OBJ3D", "obj3d"), request.split, **clips, masks=request.needs_labels)


def obj3d_videos(request: Request, **clips: Any) -> Obj3D:
    """With masks where there are any."""
    root = request.find("OBJ3D", "obj3d")
    return Obj3D(root, request.split, **clips, masks=has_masks(root, request.split))


def clevrer_clips(request: Request, **clips: Any) -> Clevrer:
    return Clevrer(request.find("CLEVRER", "clevrer"), request.split, **clips)


def clevrer_videos(request: Request, **clips: Any) -> Clevrer:
    """With the masks of the proposals where there are any: what a segmentation network found, exact if generated."""
    root = request.find("CLEVRER", "clevrer")
    return Clevrer(root, request.split, **clips, masks=(root / "derender_proposals").is_dir())


def physion_clips(request: Request, **clips: Any) -> Physion:
    subset = "test" if request.split == "test" else request.variant
    return Physion(request.find("Physion", "physion"), subset, request.split, **clips)


def phyre_videos(request: Request) -> Phyre:
    """Trials in one task of every template, simulated when they are read. `test` is `val`, as in PHYRE."""
    return _phyre(request, request.frames or PHYRE_FRAMES, request.framing.size or SIZE)


def phyre_frames(request: Request) -> Framed:
    """The first frame of every trial."""
    source = _phyre(request, 1, SIZE)
    return Framed(source, range(len(source)), request.framing, stills=first_frames)


def _phyre(request: Request, frames: int, size: tuple[int, int]) -> Phyre:
    split = "val" if request.split == "test" else request.split
    # All tasks with all actions take hours to simulate.
    fewer = {"num_tasks": NUM_TEMPLATES, "num_actions": PHYRE_ACTIONS}
    return Phyre(split, None, video_len=frames, size=size, data_ratio=1.0, **fewer)
