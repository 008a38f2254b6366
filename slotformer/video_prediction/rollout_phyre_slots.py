"""Roll out the slots of all trials of PHYRE from their first frame, one file each, for the classifier of success.

    python slotformer/video_prediction/rollout_phyre_slots.py \\
        --params "slotformer/video_prediction/configs/slotformer_phyre_params-fold0.py" \\
        --weight pretrained/slotformer_phyre_params-fold0/model_50.pth --save_path data/PHYRE --vid_len 11

Reads the configuration's slots_root. Writes <save_path>/rollout_slots/<name of the configuration>/
<protocol>-fold_<f>-<train|val>/: <number of the trial %06d>.npy, float32 [frames, slots, slot size], the first frame
observed, and, once all are there, lengths.npy. Links train_slots and val_slots are made beside the weight:
readout_phyre_params-fold0 looks for them in checkpoint/slotformer_phyre_params-fold0. With --split each of
--total_split jobs does its part. The same command continues an interrupted one. Exit codes: 0 done, 1 error, 2 misuse,
75 stopped by a signal, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.commandline import natural, positive
from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser

SPLITS = ("val", "train")


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_parser("slotformer/video_prediction/rollout_phyre_slots.py", __doc__)
    what = "folder to write to, as a rule that of the data (default: ./data/PHYRE)"
    parser.add_argument("--save_path", type=Path, default=Path("./data/PHYRE"), metavar="DIR", help=what)
    what = "frames of a roll-out, the first one included; -1 takes the configuration's video_len (default: -1)"
    parser.add_argument("--vid_len", type=int, default=-1, metavar="N", help=what)
    what = "which part of the trials to do, from 0; -1 does all (default: -1)"
    parser.add_argument("--split", type=int, default=-1, metavar="N", help=what)
    parser.add_argument("--total_split", type=positive, default=10, metavar="N", help="parts (default: 10)")
    what = "trials at a time per process (default: 128)"
    parser.add_argument("--bs", type=positive, default=128, metavar="N", help=what)
    what = "processes that read, per process that computes (default: 8)"
    parser.add_argument("--cpus", type=natural, default=8, metavar="N", help=what)
    arguments = parser.parse(words)
    if not -1 <= arguments.split < arguments.total_split:
        parser.error(f"--split {arguments.split}: expected -1, or 0 to {arguments.total_split - 1} (--total_split)")
    if arguments.vid_len != -1 and arguments.vid_len < 2:
        parser.error(f"--vid_len {arguments.vid_len}: expected -1, or at least 2")
    return arguments


def roll_out(arguments: Namespace, words: Sequence[str]) -> int:
    """Roll out as the command line says; the exit code."""
    import torch

    from core.training.launch import end_processes
    from core.training.signals import STOPPED_EXIT_CODE
    from slotformer import video_prediction
    from slotformer.framework.extraction import launched, open_trained, read_params
    from slotformer.framework.params import ParamsError, file_of
    from slotformer.framework.trials import write_trials
    from slotformer.video_prediction.rollouts import FirstSlots

    params = read_params(arguments, video_prediction, "SingleStepSlotFormer")
    if params.dataset != "phyre_slots":
        raise ParamsError(f"dataset {params.dataset!r} is not phyre_slots")
    if (code := launched(arguments, params, words)) is not None:
        return code
    num_frames = params.video_len if arguments.vid_len == -1 else arguments.vid_len
    sources = {split: FirstSlots(params, split, num_frames - 1) for split in SPLITS}
    decisive = {"num_frames": num_frames, "slots": {split: source.origin for split, source in sources.items()}}
    trained = open_trained(arguments, params, video_prediction, decisive)
    root = arguments.save_path / "rollout_slots" / file_of(arguments.params).stem

    def slots_of(batch: Mapping, trials: Sequence[int]) -> list:
        first = batch["slots"]
        return list(torch.cat([first, trained.model.rollout(first, num_frames - 1)], dim=1).float().cpu().numpy())

    for split, source in sources.items():
        path = root / f"{params.phyre_protocal}-fold_{params.phyre_fold}-{split}"
        if not write_trials(trained, arguments, source, path, split, arguments.bs, slots_of, "roll-outs"):
            return STOPPED_EXIT_CODE
    trained.report_speed()
    end_processes(trained.accelerator)
    return 0


def main(words: Sequence[str]) -> int:
    """Roll out as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: roll_out(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
