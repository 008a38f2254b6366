"""Slots of Physion's videos, with their frames or their labels, from the keys of a configuration."""

from copy import copy
from pathlib import Path

from core.data.errors import DataError
from core.data.loader import BatchSource
from core.data.physion import SPLITS
from core.data.slots import find_slots, slots_path
from core.spelling import nearest
from slotdiffusion.vp_vqa.models import READOUT
from slotformer import physion_vqa
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.physion_vqa.data import LabelledSlots
from slotformer.physion_vqa.data import open_slots as open_labelled
from slotformer.video_prediction.data import SlotClips
from slotformer.video_prediction.data import open_slots as open_unlabelled

DATASETS = tuple(f"physion_slots_{subset}" for subset in SPLITS)
EXTRACT = "slotdiffusion/video_based/extract_slots.py"
ROLL_OUT = "slotdiffusion/vp_vqa/rollout_physion_slots.py"


def build_dataset(params: BaseParams) -> tuple[BatchSource, BatchSource]:
    """For training and for validation: labelled slots for the read-out, else clips of `n_sample_frames` of slots.

    These come with frames where a loss compares them. Raises ParamsError, DataError.
    """
    if params.model == READOUT:
        return physion_vqa.build_dataset(params, ROLL_OUT)
    if params.dataset == "physion_slots_test":
        raise ParamsError(f"dataset {params.dataset!r} is for testing alone; physion_slots_training is to train on")
    pictures = any(params.loss_dict.get(f"use_{name}", False) for name in ("denoise_loss", "img_recon_loss"))
    training, validation = (open_slots(params, split, params.n_sample_frames, pictures) for split in ("train", "val"))
    return training, validation


def open_slots(params: BaseParams, split: str, num_frames: int | None, pictures: bool) -> SlotClips:
    """Clips of a split, or (`num_frames` None) whole videos, with frames if `pictures`. Raises ParamsError, DataError.

    Their slots are in `slots_root`, .h5 or .pkl, which may lie beside the weight below its folder (`slots_path`).
    """
    if params.dataset not in DATASETS:
        near = nearest(params.dataset, DATASETS)
        raise ParamsError(f"dataset {params.dataset!r} is not one of {', '.join(DATASETS)}{near}")
    try:
        find_slots(slots_path(params.slots_root))
    except DataError as error:
        subset = params.dataset.removeprefix("physion_slots_")
        raise DataError(
            f"{params.slots_root}: no such file, .h5 or .pkl. Extract the slots first: python {EXTRACT} --subset "
            f"{subset} --save_path {params.slots_root} ...; or name their file with --set slots_root=FILE"
        ) from error
    return open_unlabelled(params, split, num_frames, pictures)


def open_test_videos(params: BaseParams) -> SlotClips:
    """The whole videos of the test subset, with frames; their slots lie beside those of the configuration."""
    test = copy(params)
    test.dataset, test.slots_root = "physion_slots_test", str(slots_of(params.slots_root, "test"))
    return open_slots(test, "test", None, pictures=True)


def open_readout(
    params: BaseParams, subset: str, split: str, as_original: bool = False, test_slots: Path | None = None
) -> LabelledSlots:
    """A split of a subset with labels; `test_slots` are those of the test subset, if they are not beside the others."""
    path = test_slots if subset == "test" and test_slots else slots_of(params.slots_root, subset)
    return open_labelled(params, subset, split, as_original, path, ROLL_OUT)


def slots_of(slots_root: str, subset: str) -> Path:
    """Where the slots of a subset lie: beside `slots_root` under its name, but for the subset, or as `<subset>_slots`.

    The first of these where neither is there.
    """
    root = Path(slots_root)
    own = next((other for other in SPLITS if f"{other}_slots" in root.name), None)
    plain = root.with_name(f"{subset}_slots{root.suffix}")
    alike = root.with_name(root.name.replace(f"{own}_slots", f"{subset}_slots")) if own else plain
    for path in (alike, plain):
        try:
            return find_slots(slots_path(path))
        except DataError:
            continue
    return alike
