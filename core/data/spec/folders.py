"""How the data string `folder:PATH` opens one's own pictures and videos."""

from dataclasses import replace

from core.data.folder import FolderPictures, FolderVideos
from core.data.folder_layout import folder_kind, has_masks
from core.data.framing import Framing
from core.data.loader import BatchSource
from core.data.spec.datasets import Request
from core.data.spec.sources import Framed, first_frames


def folder_stills(request: Request) -> BatchSource:
    """Pictures, or of videos the frames: all of them in training, those that begin a clip else."""
    if folder_kind(request.variant) == "images":
        return FolderPictures(request.variant, request.split, request.framing, masks=request.masks)
    source = _videos(request, num_frames=1, masks=request.needs_labels)
    limited = Framing(max_objects=request.framing.max_objects)
    return Framed(source, range(len(source)), limited, request.masks, first_frames)


def folder_whole(request: Request) -> BatchSource:
    """Pictures, or the first `frames` frames of every video, if None as many as the shortest one has."""
    masks = has_masks(request.variant)
    if folder_kind(request.variant) == "images":
        return FolderPictures(request.variant, request.split, request.framing, masks=masks)
    return _videos(request, num_frames=None, video_len=request.frames, masks=masks)


def _videos(request: Request, **clips) -> FolderVideos:
    if request.framing.only_object:
        raise ValueError("the flag obj cuts objects out of pictures, not out of videos")
    framing = replace(request.framing, max_objects=None)
    return FolderVideos(request.variant, request.split, framing=framing, **clips)
