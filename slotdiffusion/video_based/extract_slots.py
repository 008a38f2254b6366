"""Write the slots of all videos of MOVi or Physion to one file.

    python slotdiffusion/video_based/extract_slots.py --subset training \\
        --params slotdiffusion/video_based/configs/savi_ldm/savi_ldm_physion_params-res128.py \\
        --weight pretrained/savi_ldm_physion_params-res128.pth --save_path data/Physion/slots/physion_training_slots.h5

The file is HDF5, with the provenance of the slots; under a name in .pkl it is the original's pickle. Configurations
that name either of the two find the other. A link to it is made beside the weight: slots.h5, for the test subset
test_slots.h5, or with Physion <subset>_slots.h5. Run with --ddp, or under torchrun or accelerate launch, processes
share the videos. The same command continues an interrupted one. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a
signal, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from core.commandline import positive
from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser

if TYPE_CHECKING:
    from core.data.clip_reader import ClipReader
    from slotformer.framework.params import BaseParams

SUBSETS = {"training": ("train", "val"), "readout": ("train", "val"), "test": ("test",)}
"""And the splits whose slots a file of theirs holds."""


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_parser("slotdiffusion/video_based/extract_slots.py", __doc__)
    what = "file to write, .h5 or .pkl"
    parser.add_argument("--save_path", required=True, type=Path, metavar="FILE", help=what)
    what = "of the data set; readout is Physion's (default: training)"
    parser.add_argument("--subset", choices=SUBSETS, default="training", help=what)
    what = "videos at a time per process (default: 32 on a GPU, 4 on the CPU)"
    parser.add_argument("--bs", type=positive, metavar="N", help=what)
    return parser.parse(words)


def extract(arguments: Namespace, words: Sequence[str]) -> int:
    """Extract as the command line says; the exit code."""
    from core.data.slot_writer import SlotWriter
    from core.training.signals import STOPPED_EXIT_CODE
    from slotdiffusion import video_based
    from slotdiffusion.video_based.generation import MODELS
    from slotformer.base_slots.extract_slots import note_names, other_format
    from slotformer.framework.extraction import (
        launched,
        link_beside,
        open_trained,
        read_params,
        videos_at_a_time,
        write_slots,
    )

    params = read_params(arguments, video_based, *MODELS)
    if (code := launched(arguments, params, words)) is not None:
        return code
    sources = open_videos(params, arguments.subset)
    decisive = {"dataset": params.dataset, "subset": arguments.subset, "data_root": params.data_root}
    trained = open_trained(arguments, params, video_based, decisive)
    path, names = arguments.save_path, {split: source.names for split, source in sources.items()}
    is_done = SlotWriter(path, trained.provenance).is_done(names)
    is_physion = params.dataset.startswith("physion")
    if trained.is_main and not is_done:
        note_names(path, f"physion_{arguments.subset}" if is_physion else "movi")
    batch_size = videos_at_a_time(trained.model, trained.accelerator.device, arguments.bs)
    if not write_slots(trained, path, sources, 0, batch_size):
        return STOPPED_EXIT_CODE
    trained.report_speed()
    if trained.is_main:
        counts = ", ".join(f"{split}: {len(found)}" for split, found in names.items())
        print(f"{params.dataset}, {counts}: {path}{' was there already' if is_done else ''}")
        link = link_name(is_physion, arguments.subset, path)
        link_beside(arguments.weight, link, path, instead_of=other_format(Path(link)).name)
    return 0


def open_videos(params: "BaseParams", subset: str) -> "dict[str, ClipReader]":
    """The whole videos of every split of a subset. Raises ParamsError where the data set has no such subset.

    Raises DataError where two videos of a split have one name.
    """
    from slotdiffusion.video_based.data import open_data
    from slotformer.base_slots.extract_slots import check_names
    from slotformer.framework.params import ParamsError

    chosen = copy(params)
    if params.dataset.startswith("physion"):
        chosen.dataset = f"physion_{subset}"
    elif subset == "readout":
        raise ParamsError(f"--subset readout: {params.dataset} has none, only Physion has")
    sources = {split: open_data(chosen, split, None) for split in SUBSETS[subset]}
    check_names(sources)
    return sources


def link_name(is_physion: bool, subset: str, path: Path) -> str:
    """What the configurations of later stages call the file, but for its suffix."""
    return f"{subset}_slots{path.suffix}" if is_physion or subset == "test" else f"slots{path.suffix}"


def main(words: Sequence[str]) -> int:
    """Extract as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: extract(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
