"""Write the slots of all videos of OBJ3D, CLEVRER or Physion to one file.

    python slotformer/base_slots/extract_slots.py --params slotformer/base_slots/configs/savi_obj3d_params.py \\
        --weight pretrained/savi_obj3d_params/model_40.pth --save_path data/OBJ3D/obj3d_slots.h5

The file is HDF5, with the provenance of the slots; under a name in .pkl it is the original's pickle. Configurations
that name either of the two find the other. A link to it is made beside the weight: slots.h5, or with Physion
<subset>_slots.h5. The same command continues an interrupted one. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a
signal, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from core.commandline import natural, positive
from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser

if TYPE_CHECKING:
    from core.data.clip_reader import ClipReader
    from slotformer.framework.params import BaseParams

SUBSETS = ("training", "readout", "test")
SPLITS = {
    "obj3d": ("train", "val"),
    "clevrer": ("train", "val", "test"),
    "physion_training": ("train", "val"),
    "physion_readout": ("train", "val"),
    "physion_test": ("test",),
    "folder": ("train", "val", "test"),
}
"""Whose slots a data set's file holds."""


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_parser("slotformer/base_slots/extract_slots.py", __doc__)
    what = "file to write, .h5 or .pkl"
    parser.add_argument("--save_path", required=True, type=Path, metavar="FILE", help=what)
    parser.add_argument("--subset", choices=SUBSETS, help=f"of Physion (default: {SUBSETS[0]})")
    what = "videos at a time per process (default: 32 on a GPU, 4 on the CPU)"
    parser.add_argument("--bs", type=positive, metavar="N", help=what)
    what = "of what stochastic models draw, for each video by itself (default: 0)"
    parser.add_argument("--seed", type=natural, default=0, help=what)
    return parser.parse(words)


def extract(arguments: Namespace, words: Sequence[str]) -> int:
    """Extract as the command line says; the exit code."""
    from core.data.slot_writer import SlotWriter
    from core.training.signals import STOPPED_EXIT_CODE
    from slotformer import base_slots
    from slotformer.framework.extraction import (
        launched,
        link_beside,
        open_trained,
        read_params,
        videos_at_a_time,
        write_slots,
    )

    params = read_params(arguments, base_slots, "StoSAVi", "STEVE")
    if (code := launched(arguments, params, words)) is not None:
        return code
    dataset = choose_dataset(params, arguments.subset)
    sources = open_videos(params, dataset)
    decisive = {"dataset": dataset, "data_root": params.data_root, "seed": arguments.seed}
    trained = open_trained(arguments, params, base_slots, decisive)
    path, names = arguments.save_path, {split: source.names for split, source in sources.items()}
    is_done = SlotWriter(path, trained.provenance).is_done(names)
    if trained.is_main and not is_done:
        note_names(path, dataset)
    batch_size = videos_at_a_time(trained.model, trained.accelerator.device, arguments.bs)
    if not write_slots(trained, path, sources, arguments.seed, batch_size):
        return STOPPED_EXIT_CODE
    trained.report_speed()
    if trained.is_main:
        counts = ", ".join(f"{split}: {len(found)}/{len(found)}" for split, found in names.items())
        print(f"{dataset}, {counts}: {path}{' was there already' if is_done else ''}")
        link = link_name(dataset, path)
        link_beside(arguments.weight, link, path, instead_of=other_format(Path(link)).name)
    return 0


def choose_dataset(params: "BaseParams", subset: str | None) -> str:
    """The configuration's data set, or the subset of it. Raises ParamsError where there are no such slots."""
    from slotformer.framework.params import ParamsError

    dataset = params.dataset
    if dataset.startswith("physion"):
        dataset = f"physion_{subset or SUBSETS[0]}"
    elif subset:
        raise ParamsError(f"--subset {subset}: {dataset} has no subsets, only Physion has")
    if dataset not in SPLITS:
        hint = ". Use extract_phyre_slots.py" if dataset == "phyre" else ""
        raise ParamsError(f"dataset {dataset!r} is not one of {', '.join(SPLITS)}{hint}")
    return dataset


def open_videos(params: "BaseParams", dataset: str) -> dict[str, "ClipReader"]:
    """The whole videos of every split. Raises DataError where two of a split have one name."""
    from slotformer.base_slots.data import open_data

    chosen = copy(params)
    chosen.dataset = dataset
    sources = {split: open_data(chosen, split, None) for split in SPLITS[dataset]}
    check_names(sources)
    return sources


def check_names(sources: "Mapping[str, ClipReader]") -> None:
    """Raises DataError where two videos of a split have one name."""
    from core.data.errors import DataError

    for split, source in sources.items():
        if len(set(source.names)) < len(source):
            twice = next(name for name in source.names if source.names.count(name) > 1)
            raise DataError(f"{source.path}: {split} has two videos called {twice}, whose slots would have one name")


def note_names(path: Path, dataset: str) -> None:
    """Say what about the name of the file may mislead."""
    if missing := [word for word in dataset.split("_") if word not in str(path.resolve()).lower()]:
        print(f"note: the name of --save_path {path} does not say {missing[0]}", file=sys.stderr)
    other = other_format(path)
    if other.exists():
        print(f"note: {other} stays beside it, and is what configurations that name it read", file=sys.stderr)


def other_format(path: Path) -> Path:
    """The name of the same slots as a pickle, or of the pickle's as HDF5."""
    from core.data.slots import HDF5, PICKLE

    return path.with_suffix(PICKLE if path.suffix == HDF5 else HDF5)


def link_name(dataset: str, path: Path) -> str:
    """What the configurations of later stages call the file, but for its suffix."""
    subset = f"{dataset.removeprefix('physion_')}_" if dataset.startswith("physion") else ""
    return f"{subset}slots{path.suffix}"


def main(words: Sequence[str]) -> int:
    """Extract as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: extract(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
