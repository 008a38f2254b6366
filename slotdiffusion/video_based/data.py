"""The data sets of models of videos, from the keys of a configuration."""

from collections.abc import Sequence

from core.data.clip_reader import ClipReader
from core.data.clips import block_starts, first_start
from core.data.folder import FolderVideos
from core.data.folder_layout import has_masks as folder_has_masks
from core.data.framing import Framing
from core.data.loader import BatchSource
from core.data.movi import Movi
from core.data.physion import Physion
from core.spelling import nearest
from slotdiffusion.video_based.encoded_clips import encoded_clips
from slotformer.framework.params import BaseParams, ParamsError

DATASETS = ("movi", "steve_movi", "physion_training", "physion_readout", "physion_test", "folder")


def has_masks(params: BaseParams) -> bool:
    """Whether the validation and test splits come with masks."""
    if params.dataset == "folder":
        return folder_has_masks(params.data_root)
    return params.dataset in ("movi", "steve_movi") and params.get("load_mask", False)


def build_dataset(params: BaseParams) -> tuple[BatchSource, BatchSource]:
    """Clips of `n_sample_frames` for training and for validation, these with masks if there are any.

    The first come with what a frozen VQ-VAE or dVAE says of their frames, see `encoded_clips`. MOVi-Solid and MOVi-Tex
    are validated on the test split, as in the original: their val split has no masks. But all of each video is, not
    only its first frames.
    """
    frames = params.n_sample_frames
    training, validation = open_data(params, "train", frames), open_validation(params, frames)
    if params.get("cache_latents", True):
        training = encoded_clips(params, training, open_frames(params, "train"))
    return training, validation


def open_validation(params: BaseParams, num_frames: int | None) -> ClipReader:
    """Clips, or whole videos, of the split that trainings are validated on, with masks if there are any."""
    is_steve = params.dataset == "steve_movi"
    source = open_data(params, "test" if is_steve else "val", num_frames, masks=has_masks(params))
    if is_steve and num_frames is not None:
        source.clips = block_starts(len(source.names), params.video_len, num_frames, params.frame_offset)
    return source


def open_beginnings(params: BaseParams, lengths: Sequence[int]) -> dict[int, ClipReader]:
    """The test videos, with masks, up to each of these numbers of frames, by the number; -1 stands for all frames.

    Raises ParamsError for more frames than there are.
    """
    whole = open_data(params, "test", None, masks=True)
    most = (len(whole.stems) - 1) // params.frame_offset + 1
    sources = {}
    for length in lengths:
        if length > most:
            raise ParamsError(f"--seq_len {length}: the test videos have {most} frames. Give at most that, or -1")
        source = whole if length < 0 else open_data(params, "test", length, masks=True)
        source.clips = first_start(len(source.names))
        sources[source.num_frames] = source
    return sources


def open_frames(params: BaseParams, split: str) -> ClipReader:
    """Whole videos with all their frames, whatever `frame_offset` says."""
    return open_data(params, split, None, frame_offset=1)


def open_data(
    params: BaseParams, split: str, num_frames: int | None, masks: bool = False, frame_offset: int | None = None
) -> ClipReader:
    """Clips of a split (train, val or test), or (`num_frames` None) whole videos; with `masks` where there are any.

    Raises ParamsError for a data set that is none.
    """
    name = params.dataset
    settings = {
        "num_frames": num_frames,
        "frame_offset": frame_offset or params.frame_offset,
        "video_len": params.video_len,
        "size": tuple(params.resolution),
    }
    if name in ("movi", "steve_movi"):
        as_original = params.get("as_original", False)
        return Movi(params.data_root, params.movi_level, split, **settings, masks=masks, as_original=as_original)
    if name == "folder":
        framing = Framing(size=settings.pop("size"), antialias=True)
        return FolderVideos(params.data_root, split, **settings, framing=framing, masks=masks)
    if name in DATASETS:
        subset = name.removeprefix("physion_")
        return Physion(params.data_root, subset, split, **settings, tasks=params.get("tasks", ["all"]))
    raise ParamsError(f"dataset {name!r} is not one of {', '.join(DATASETS)}{nearest(name, DATASETS)}")
