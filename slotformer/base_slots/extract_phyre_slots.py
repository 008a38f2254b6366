"""Write the slots of all trials of PHYRE, one file each.

    python slotformer/base_slots/extract_phyre_slots.py \\
        --params "slotformer/base_slots/configs/savi_phyre_params-fold0.py" \\
        --weight pretrained/savi_phyre_params-fold0/model_30.pth --save_path data/PHYRE

They go to <save_path>/slots/<name of the configuration>/<protocol>-fold_<f>-<train|val>-data_<ratio>-pos_<ratio>/:
<number of the trial %06d>.npy, float32 [length of the trial, slots, slot size], and, once all are there, lengths.npy.
Links train_slots and val_slots are made beside the weight. With --split each of --total_split jobs does its part (see
scripts/parallel_phyre.sh). The same command continues an interrupted one. Exit codes: 0 done, 1 error, 2 misuse, 75
stopped by a signal, 130 interrupted.
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
    from slotformer.framework.params import BaseParams


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_parser("slotformer/base_slots/extract_phyre_slots.py", __doc__)
    what = "folder to write to, as a rule that of the data"
    parser.add_argument("--save_path", required=True, type=Path, metavar="DIR", help=what)
    what = "seconds of simulation that are kept (default: 11)"
    parser.add_argument("--vid_len", type=positive, default=11, metavar="N", help=what)
    what = "which part of the trials to do, from 0; -1 does all (default: -1)"
    parser.add_argument("--split", type=int, default=-1, metavar="N", help=what)
    parser.add_argument("--total_split", type=positive, default=10, metavar="N", help="parts (default: 10)")
    what = "trials at a time per process (default: 32)"
    parser.add_argument("--bs", type=positive, default=32, metavar="N", help=what)
    what = "processes that simulate, per process that computes (default: 8)"
    parser.add_argument("--cpus", type=natural, default=8, metavar="N", help=what)
    arguments = parser.parse(words)
    if not -1 <= arguments.split < arguments.total_split:
        parser.error(f"--split {arguments.split}: expected -1, or 0 to {arguments.total_split - 1} (--total_split)")
    return arguments


def extract(arguments: Namespace, words: Sequence[str]) -> int:
    """Extract as the command line says; the exit code."""

    from core.training.launch import end_processes
    from core.training.signals import STOPPED_EXIT_CODE
    from slotformer import base_slots
    from slotformer.base_slots.data import open_data
    from slotformer.framework.extraction import (
        launched,
        open_trained,
        read_params,
        video_noise,
        videos_at_a_time,
    )
    from slotformer.framework.params import ParamsError, file_of
    from slotformer.framework.trials import write_trials

    params = read_params(arguments, base_slots, "StoSAVi", "STEVE")
    if params.dataset != "phyre":
        raise ParamsError(f"dataset {params.dataset!r} is not phyre. Use extract_slots.py")
    if (code := launched(arguments, params, words)) is not None:
        return code
    whole = copy(params)
    whole.video_len = arguments.vid_len * params.fps
    sources = {split: open_data(whole, split, None) for split in ("val", "train")}
    decisive = {"num_frames": whole.video_len, "source": sources["val"].source}
    trained = open_trained(arguments, params, base_slots, decisive)
    batch_size = videos_at_a_time(trained.model, trained.accelerator.device, arguments.bs)
    root = arguments.save_path / "slots" / file_of(arguments.params).stem
    for split, source in sources.items():

        def slots_of(batch: Mapping, trials: Sequence[int], num_frames: int = source.num_frames) -> list:
            noise = video_noise(params.seed, [str(trial) for trial in trials], num_frames, batch["video"].device)
            slots = trained.model.extract(batch, noise).float().cpu().numpy()
            return [video[:length] for video, length in zip(slots, batch["num_frames"].tolist())]

        path = root / folder_name(params, split)
        if not write_trials(trained, arguments, source, path, split, batch_size, slots_of, "slots"):
            return STOPPED_EXIT_CODE
    trained.report_speed()
    end_processes(trained.accelerator)
    return 0


def folder_name(params: "BaseParams", split: str) -> str:
    """As the original calls the folder of a split."""
    trials = f"data_{params.data_ratio}-pos_{params.pos_ratio}"
    return f"{params.phyre_protocal}-fold_{params.phyre_fold}-{split}-{trials}"


def main(words: Sequence[str]) -> int:
    """Extract as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: extract(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
