"""Write the words that a trained dVAE finds in the frames of Physion, so that STEVE's training need not ask it.

    python slotformer/base_slots/tokenize_images.py --params slotformer/base_slots/configs/dvae_physion_params.py \\
        --weight pretrained/dvae_physion_params/model_20.pth

Each video's words go to PhysionTrainNpys-<name of the configuration>/, laid out as the videos: int16 [frames, h * w].
STEVE's training reads them if its dvae_ckp_path lies in a run of that name. The same command continues an interrupted
one. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np

from core.commandline import natural, positive
from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_parser("slotformer/base_slots/tokenize_images.py", __doc__)
    what = "frames at a time per process (default: 32)"
    parser.add_argument("--bs", type=positive, default=32, metavar="N", help=what)
    what = "processes that read, per process that computes (default: 8)"
    parser.add_argument("--cpus", type=natural, default=8, metavar="N", help=what)
    return parser.parse(words)


def tokenize(arguments: Namespace, words: Sequence[str]) -> int:
    """Tokenise as the command line says; the exit code."""
    import torch

    from core.data.physion import SPLITS, listed_videos, token_file
    from core.data.slot_writer import save_array
    from core.training.launch import end_processes
    from core.training.signals import STOPPED_EXIT_CODE
    from slotformer import base_slots
    from slotformer.base_slots.data import open_data
    from slotformer.base_slots.models.dvae import DOWN_FACTOR
    from slotformer.framework.extraction import launched, open_trained, read_params
    from slotformer.framework.params import ParamsError, file_of

    params = read_params(arguments, base_slots, "dVAE")
    if (code := launched(arguments, params, words)) is not None:
        return code
    subset = params.dataset.removeprefix("physion_")
    if subset not in SPLITS:
        raise ParamsError(f"dataset {params.dataset!r} is not one of {', '.join(f'physion_{name}' for name in SPLITS)}")
    if params.vocab_size > np.iinfo(np.int16).max:
        raise ParamsError(f"vocab_size {params.vocab_size}: words are kept as 16-bit numbers")
    name, root = file_of(arguments.params).stem, Path(params.data_root)
    whole = copy(params)
    whole.frame_offset = 1
    sources = {split: open_data(whole, split, None) for split in reversed(SPLITS[subset])}  # validation first
    files = {
        split: [
            token_file(root, video, name) for video in listed_videos(root, subset, split, params.get("tasks", ["all"]))
        ]
        for split in sources
    }
    trained = open_trained(arguments, params, base_slots)
    if trained.is_main:
        trained.provenance.claim(root / files[next(iter(files))][0].relative_to(root).parts[0])
    height, width = params.resolution
    for split, source in sources.items():
        shape = (source.num_frames, (height // DOWN_FACTOR) * (width // DOWN_FACTOR))
        missing = [index for index, file in enumerate(files[split]) if not holds(file, shape)]
        trained.accelerator.wait_for_everyone()  # all processes share out the same list

        def write(batch: Mapping, indices: Sequence[int], files: Sequence[Path] = files[split]) -> None:
            frames = (2 * batch["video"][0] - 1).split(arguments.bs)
            tokens = torch.cat([trained.model.tokenize(few).flatten(1) for few in frames])
            save_array(files[indices[0]], tokens.short().cpu().numpy())

        if not trained.go_through(source, missing, 1, write, f"words of {split}", arguments.cpus):
            return STOPPED_EXIT_CODE
        if trained.is_main:
            print(f"{split}: {len(missing)} of {len(files[split])} videos tokenised, the others were there")
    trained.report_speed()
    end_processes(trained.accelerator)
    return 0


def holds(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a file holds words of that shape, to the end."""
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return False
    return tokens.shape == shape and tokens.dtype == np.int16


def main(words: Sequence[str]) -> int:
    """Tokenise as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: tokenize(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
