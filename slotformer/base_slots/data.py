"""The data sets of base models, from the keys of a configuration."""

from pathlib import Path
from typing import Any

from core.data.clevrer import Clevrer
from core.data.errors import DataError
from core.data.folder import FolderVideos
from core.data.folder_layout import has_masks as folder_has_masks
from core.data.framing import Framing
from core.data.loader import BatchSource
from core.data.obj3d import Obj3D, has_masks
from core.data.phyre import Phyre
from core.data.physion import Physion
from core.provenance import FILE, file_hash, read_provenance
from core.spelling import nearest
from slotformer.framework.params import BaseParams, ParamsError

DATASETS = ("obj3d", "clevrer", "phyre", "physion_training", "physion_readout", "physion_test", "folder")


def build_dataset(params: BaseParams) -> tuple[BatchSource, BatchSource]:
    """Clips of `n_sample_frames` for training and for validation, these with masks if the data set has them."""
    frames = params.n_sample_frames
    return open_data(params, "train", frames), open_data(params, "val", frames, masks=True)


def open_data(
    params: BaseParams, split: str, num_frames: int | None, masks: bool = False, pictures: bool = True
) -> BatchSource:
    """Clips of a split, or (`num_frames` None) whole videos; with `masks` where there are any.

    Without `pictures` it is not read, and Physion's videos need not be there. Raises ParamsError for a data set that is
    none, and for PHYRE with a `frame_offset`.
    """
    name, root = params.dataset, params.data_root
    clips: dict[str, Any] = {"num_frames": num_frames, "size": tuple(params.resolution)}
    offset = {"frame_offset": params.get("frame_offset", 1)}
    if name == "obj3d":
        masks = masks and has_masks(root, split)
        return Obj3D(root, split, **clips, **offset, video_len=params.video_len, masks=masks)
    if name == "clevrer":
        return Clevrer(
            root,
            split,
            **clips,
            **offset,
            filter_enter=params.get("filter_enter", False),
            video_len=params.get("video_len", 128),
            warmup_len=params.input_frames,
            as_original=params.get("as_original", False),
            masks=masks and (Path(root) / "derender_proposals").is_dir(),
        )
    if name == "phyre":
        if offset["frame_offset"] != 1:
            raise ParamsError(
                f"frame_offset is {params.frame_offset}, expected 1: fps says which of PHYRE's frames count"
            )
        return Phyre(
            split,
            **clips,
            video_len=params.video_len,
            fps=params.fps,
            protocol=params.phyre_protocal,
            fold=params.phyre_fold,
            data_ratio=params.data_ratio,
            pos_ratio=params.pos_ratio,
            reverse_color=params.reverse_color,
            num_actions=params.get("num_actions"),
            num_tasks=params.get("num_tasks"),
        )
    if name == "folder":
        framing = Framing(size=clips.pop("size"), antialias=True)
        masks = masks and folder_has_masks(root)
        return FolderVideos(root, split, **clips, **offset, framing=framing, video_len=params.video_len, masks=masks)
    if name in DATASETS:
        return Physion(
            root,
            name.removeprefix("physion_"),
            split,
            **clips,
            **offset,
            video_len=params.video_len,
            tasks=params.get("tasks", ["all"]),
            tokens=token_name(params) if num_frames else None,
            pictures=pictures,
        )
    raise ParamsError(f"dataset {name!r} is not one of {', '.join(DATASETS)}{nearest(name, DATASETS)}")


def token_name(params: BaseParams) -> str | None:
    """The name under which the words lie that STEVE's dVAE has found in Physion, if they are there.

    It is the name of the dVAE's run. Raises DataError if the words come from another weight than the one to be used.
    """
    path = params.get("dvae_dict", {}).get("dvae_ckp_path")
    if params.model != "STEVE" or not path:
        return None
    weight = Path(path)
    name = next(folder.name for folder in weight.parents if folder.name not in ("models", "epoch"))
    kind = "Test" if params.dataset == "physion_test" else "Train"
    folder = Path(params.data_root) / f"Physion{kind}Npys-{name}"
    if not name or not folder.is_dir():
        return None
    made_by = read_provenance(folder / FILE)
    if made_by and weight.is_file() and made_by.get("weight_sha256") != file_hash(weight):
        raise DataError(
            f"{folder}: holds words of the weight {made_by.get('weight')}, not of {weight}. Remove the folder to do "
            "without them, or make it again with slotformer/base_slots/tokenize_images.py"
        )
    return name
