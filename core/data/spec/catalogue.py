"""Every data set of the project by its name in data strings."""

from functools import partial

from core.data.celeba import REMEDY as CELEBA_REMEDY
from core.data.clevr import REMEDY as CLEVR_REMEDY
from core.data.clevrer import SOURCE as CLEVRER_SOURCE
from core.data.clevrtex import SOURCE as CLEVRTEX_SOURCE
from core.data.clevrtex import VARIANTS as CLEVRTEX_VARIANTS
from core.data.coco import REMEDY as COCO_REMEDY
from core.data.movi import LEVELS
from core.data.msn import SOURCE as MSN_SOURCE
from core.data.multi_mnist import REMEDY as MULTI_MNIST_REMEDY
from core.data.multi_object_h5 import CLEVR_BOX
from core.data.nmr import SOURCE as NMR_SOURCE
from core.data.pascal import SOURCE as PASCAL_SOURCE
from core.data.physion import SOURCE as PHYSION_SOURCE
from core.data.spec import datasets, folders, videos
from core.data.spec.datasets import SPLITS, DataSet
from core.data.spec.videos import Clips
from core.data.voc import REMEDY as VOC_REMEDY

CLEVR_SIZE = (240, 320)
LOWER_IN_H5 = (CLEVR_BOX[1] + CLEVR_BOX[3] - CLEVR_SIZE[0]) / 2 / CLEVR_SIZE[0]
"""The square that EfficientMORL and its peers cut out of CLEVR lies 5 of 240 rows below the middle."""


def _h5(name: str, size: tuple[int, int], remedy: str, suffix: str = "", **options) -> DataSet:
    files = {"folder": name, "train": f"{name}{suffix}.h5", "test": f"{name}{suffix}_test.h5"}
    return DataSet(partial(datasets.open_h5, **files), size, remedy, **options)


def _clevr_h5(name: str, train: str, test: str, groups: tuple[str, str]) -> DataSet:
    remedy = f"Make it with `python tools/make_data.py {name} --root data/{name} --train 50000 --test 320`"
    opener = partial(datasets.open_h5, folder=name, train=f"{name}_{train}.h5", test=f"{name}_{test}.h5", groups=groups)
    return DataSet(opener, CLEVR_SIZE, remedy, crop=0.8, lower=LOWER_IN_H5, antialias=True)


def _videos(stills: Clips, whole: Clips, most: int, remedy: str, **options) -> DataSet:
    return DataSet(
        partial(videos.single_frames, clips=stills, most=most),
        videos.SIZE,
        remedy,
        kind="videos",
        open_whole=partial(videos.whole_videos, clips=whole, most=most),
        **options,
    )


def _views(name: str, size: tuple[int, int], remedy: str, **options) -> DataSet:
    return DataSet(
        partial(datasets.open_views, name=name),
        size,
        remedy,
        kind="views",
        open_whole=partial(datasets.view_reader, name=name),
        **options,
    )


def _photos(name: str, remedy: str) -> DataSet:
    return DataSet(
        partial(datasets.open_photos, name=name),
        (datasets.PHOTO_SIDE, datasets.PHOTO_SIDE),
        remedy,
        open_whole=partial(datasets.photo_reader, name=name),
    )


SETS = {
    "clevr": DataSet(datasets.open_clevr, CLEVR_SIZE, CLEVR_REMEDY, crop=0.8, short_name="cle"),
    "clevr6": DataSet(partial(datasets.open_clevr, most_objects=6), CLEVR_SIZE, CLEVR_REMEDY, crop=0.8),
    "clevrtex": DataSet(
        datasets.open_clevrtex,
        (240, 320),
        f"{CLEVRTEX_SOURCE}; one like it is made by `python tools/make_data.py clevrtex --root data --scenes 1000`, "
        "other variants than full by their names, such as clevrtex_pbg",
        variants=CLEVRTEX_VARIANTS,
        crop=0.8,
        antialias=True,
        short_name="clt",
    ),
    "mnist": DataSet(datasets.open_multi_mnist, (50, 50), MULTI_MNIST_REMEDY, has_masks=False),
    "pascal": DataSet(datasets.open_pascal, None, PASCAL_SOURCE),
    "tetrominoes": _h5(
        "tetrominoes",
        (35, 35),
        "Make it with `python tools/make_data.py tetrominoes --root data/tetrominoes --train 60000 --test 320`",
    ),
    "multi_dsprites": _h5(
        "multi_dsprites",
        (64, 64),
        "Make it with `python tools/make_data.py multi_dsprites_{variant} --root data/multi_dsprites --train 60000 "
        "--test 320`",
        suffix="_{variant}",
        variants=("binarized", "colored_on_grayscale", "colored_on_colored"),
        default_variant="colored_on_grayscale",
    ),
    "objects_room": _h5(
        "objects_room",
        (64, 64),
        "Write the files as the README has it under `Your own data`, from gs://multi-object-datasets/objects_room",
        variants=("train",),
        default_variant="train",
    ),
    "clevr6_h5": _clevr_h5("clevr6", "with_masks_train", "with_masks_and_factors_test", ("train", "test")),
    "clevr10_h5": _clevr_h5("clevr10", "with_masks_and_factors_train", "with_masks_test", ("test", "test")),
    "celeba": DataSet(datasets.open_celeba, (218, 178), CELEBA_REMEDY, has_masks=False),
    "coco": _photos("coco", COCO_REMEDY),
    "voc": _photos("voc", VOC_REMEDY),
    "obj3d": _videos(
        videos.obj3d_clips,
        videos.obj3d_videos,
        100,
        "Fetch OBJ3D as G-SWM (Lin et al. 2020) published it, or make one like it with `python tools/make_data.py "
        "obj3d --root data --scenes 100`, which has masks, too",
    ),
    "clevrer": _videos(videos.clevrer_clips, videos.clevrer_videos, 128, f"See {CLEVRER_SOURCE}", has_masks=False),
    "physion": _videos(
        videos.physion_clips,
        videos.physion_clips,
        150,
        f"See {PHYSION_SOURCE}",
        variants=("training", "readout", "test"),
        default_variant="training",
        has_masks=False,
    ),
    "phyre": DataSet(
        videos.phyre_frames,
        videos.SIZE,
        "It is simulated: `pip install -e '.[synth]'`",
        has_masks=False,
        kind="videos",
        open_whole=videos.phyre_videos,
    ),
    "movi": _videos(
        videos.movi_clips,
        videos.movi_videos,
        24,
        "Make it with `python tools/make_data.py movi-{variant} --root data --scenes 100`, for the levels d, e, solid "
        "and tex, or fetch it with slotdiffusion/scripts/data_utils/download_movi.py",
        variants=tuple(level.lower() for level in LEVELS),
    ),
    "clevr3d": _views(
        "clevr3d",
        (240, 320),
        "Make it with `python tools/make_data.py clevr3d --root data --scenes 1000`, or see github.com/stelzner/obsurf",
    ),
    "obsurf_msn": _views(
        "obsurf_msn",
        (240, 320),
        "Make it with `python tools/make_data.py obsurf_msn --root data --scenes 1000`, or see "
        "github.com/stelzner/obsurf",
    ),
    "msn": _views("msn", (128, 128), MSN_SOURCE),
    "nmr": _views("nmr", (64, 64), NMR_SOURCE, has_masks=False),
    "folder": DataSet(
        folders.folder_stills,
        None,
        "Give the folder of your pictures or videos",
        antialias=True,
        open_whole=folders.folder_whole,
        splits=(*SPLITS, "all"),
    ),
}
"""By their names in data strings. `folder` takes a path for its variant, and what it holds is found there."""

SYNONYMS = {
    "clevr_with_masks": "clevr",
    "multi_mnist": "mnist",
    "clevr_6_h5": "clevr6_h5",
    "clevr_10_h5": "clevr10_h5",
    **{f"movi_{level.lower()}": f"movi:{level.lower()}" for level in LEVELS},
    **{f"clevrtex_{variant}": f"clevrtex:{variant}" for variant in CLEVRTEX_VARIANTS},
    **{f"multi_dsprites_{variant}": f"multi_dsprites:{variant}" for variant in SETS["multi_dsprites"].variants},
    **{f"physion_{variant}": f"physion:{variant}" for variant in SETS["physion"].variants},
}
"""Other names, such as those of tools/make_data.py. In all names case does not matter, and _ may be written -."""
