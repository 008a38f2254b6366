"""The data sets of models of pictures, from the keys of a configuration."""

from core.data.celeba import CelebA
from core.data.clevrtex import ClevrTex
from core.data.coco import Coco
from core.data.folder import FolderPictures
from core.data.folder_layout import has_masks as folder_has_masks
from core.data.framing import Framing
from core.data.photo_reader import PhotoReader
from core.data.picture_reader import PictureReader
from core.data.voc import VOC
from core.spelling import nearest
from slotformer.framework.params import BaseParams, ParamsError

PHOTOS: dict[str, type[PhotoReader]] = {"coco": Coco, "voc": VOC}
DATASETS = ("clevrtex", "celeba", *PHOTOS, "folder")
KEPT_OF_CLEVRTEX = 0.8
"""The side of the middle square as a share of the height: 192 of 240 pixels."""


def has_masks(params: BaseParams) -> bool:
    """Whether the validation and test splits come with masks."""
    if params.dataset == "folder":
        return folder_has_masks(params.data_root)
    key = {"clevrtex": "load_mask", "coco": "load_anno", "voc": "load_anno"}.get(params.dataset)
    return key is not None and params.get(key, False)


def build_dataset(params: BaseParams) -> tuple[PictureReader | PhotoReader, PictureReader | PhotoReader]:
    """Pictures for training, without masks, and for validation, with masks if there are any."""
    return open_split(params, "train", masks=False), open_split(params, "val", masks=has_masks(params))


def open_split(params: BaseParams, split: str, masks: bool) -> PictureReader | PhotoReader:
    """The pictures of a split (train, val or test); with `masks` where there are any.

    COCO and VOC are tested on what they are validated on. Raises ParamsError for a data set that is none, and for a
    resolution that it does not have.
    """
    name, root, size = params.dataset, params.data_root, tuple(params.resolution)
    if name == "clevrtex":
        framing = Framing(crop=KEPT_OF_CLEVRTEX, size=size, without_gaps=True)
        most = params.get("max_obj", -1)
        return ClevrTex(root, "full", split, framing, masks=masks, most_entities=most if most > 0 else None)
    if name == "celeba":
        return CelebA(root, split, Framing(size=size))
    if name == "folder":
        return FolderPictures(root, split, Framing(size=size, without_gaps=True, antialias=True), masks=masks)
    if name in PHOTOS:
        if size[0] != size[1]:
            raise ParamsError(f"resolution {size}: squares are cut out of the photographs of {name}, give equal sides")
        return PHOTOS[name](root, split, size[0], masks=masks, as_original=params.get("as_original", False))
    raise ParamsError(f"dataset {name!r} is not one of {', '.join(DATASETS)}{nearest(name, DATASETS)}")
