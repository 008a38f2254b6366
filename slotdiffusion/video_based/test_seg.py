"""Score the segmentations that slots give of the test videos of MOVi.

    python slotdiffusion/video_based/test_seg.py \\
        --params slotdiffusion/video_based/configs/savi_ldm/savi_ldm_movid_params-res128.py \\
        --weight pretrained/savi_ldm_movid_params-res128.pth

A video is scored as a whole: an object must keep its slot over all frames. Prints FG-ARI, mIoU and mBO in percent, and
writes all scores to <weight>-seg-<name of the configuration>.json beside the weight. Exit codes: 0 done, 1 error, 2
misuse, 75 stopped by a signal, 130 interrupted.
"""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser, count_or_default

if TYPE_CHECKING:
    import numpy as np

    from core.data.clip_reader import ClipReader
    from slotformer.framework.extraction import Trained
    from slotformer.framework.params import BaseParams

PRINTED = {"fARI": "fari", "miou": "miou", "mbo": "mbo"}


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_parser("slotdiffusion/video_based/test_seg.py", __doc__)
    what = "frames from the beginning of each video, one table for each number; -1 takes all (default: -1)"
    parser.add_argument("--seq_len", type=count_or_default, nargs="+", default=[-1], metavar="N", help=what)
    what = "videos at a time per process; -1 takes the configuration's val_batch_size (default: -1)"
    parser.add_argument("--bs", type=count_or_default, default=-1, metavar="N", help=what)
    what = "score as the original does: labels up to the largest count as objects, absent or not"
    parser.add_argument("--as_original", action="store_true", help=what)
    return parser.parse(words)


def evaluate(arguments: Namespace, words: Sequence[str]) -> int:
    """Score as the command line says; the exit code."""
    from core.files import replacing
    from core.training.launch import end_processes
    from core.training.signals import STOPPED_EXIT_CODE
    from slotdiffusion import video_based
    from slotdiffusion.video_based.data import has_masks, open_data
    from slotformer.framework.extraction import launched, open_trained, read_params, videos_at_a_time
    from slotformer.framework.params import ParamsError, file_of

    params = read_params(arguments, video_based, "SAViDiffusion", "SAVi", "STEVE")
    params.load_mask = True
    if not has_masks(params):
        raise ParamsError(f"dataset {params.dataset!r} has no masks to compare with: use movi or steve_movi")
    if (code := launched(arguments, params, words)) is not None:
        return code
    params.as_original = arguments.as_original or params.get("as_original", False)
    lengths = [params.video_len // params.frame_offset if length < 0 else length for length in arguments.seq_len]
    sources = {length: open_data(params, "test", length, masks=True) for length in lengths}
    trained = open_trained(arguments, params, video_based)
    name = file_of(arguments.params).stem
    results = arguments.weight.with_name(f"{arguments.weight.stem}-seg-{name}.json")
    if not os.access(results.parent, os.W_OK):
        raise ValueError(f"{results.parent}: results cannot be written there. Copy the weight to a folder of yours")
    batch_size = params.val_batch_size if arguments.bs < 0 else arguments.bs
    videos_at_a_time(trained.model, trained.accelerator.device)
    found = {}
    for length, source in sources.items():
        scores = score_all(trained, source, batch_size, params)
        if scores is None:
            return STOPPED_EXIT_CODE
        found[length] = means_of(scores)
        if trained.is_main:
            print(f"{name}, L={length}")
            print("\n".join(f"{title}: {100 * found[length][score]:.2f}" for title, score in PRINTED.items()))
    end_processes(trained.accelerator)
    if trained.is_main:
        described = {
            **trained.provenance.to_dict(),
            "dataset": f"{params.dataset} {params.movi_level}",
            "split": "test",
            "num_videos": len(sources[lengths[0]]),
            "as_original": params.as_original,
            "scores": {str(length): scores for length, scores in found.items()},
        }
        with replacing(results) as partial:
            partial.write_text(json.dumps(described, indent=2) + "\n")
        print(f"all scores in {results}")
    return 0


def score_all(
    trained: "Trained", source: "ClipReader", batch_size: int, params: "BaseParams"
) -> "dict[str, np.ndarray] | None":
    """Every score of every video, in their order; None if a signal stopped it."""
    import numpy as np
    from accelerate.utils import gather_object

    from core.metrics.segmentation import hard_labels, segmentation_scores

    rows: list[tuple[int, dict[str, float]]] = []

    def score(batch: Mapping, videos: Sequence[int]) -> None:
        labels = hard_labels(trained.model.segment(batch))
        scores = segmentation_scores(batch["mask"], labels, as_original=params.as_original)
        values = {name: of.tolist() for name, of in scores.items()}
        rows.extend(
            (int(video), {name: of[place] for name, of in values.items()}) for place, video in enumerate(videos)
        )

    if not trained.go_through(source, range(len(source)), batch_size, score, "videos segmented"):
        return None
    gathered = gather_object(rows) if trained.accelerator.num_processes > 1 else rows
    ordered = [scores for _, scores in sorted(gathered, key=lambda row: row[0])]
    return {name: np.array([scores[name] for scores in ordered]) for name in ordered[0]}


def means_of(scores: "Mapping[str, np.ndarray]") -> dict[str, float | None]:
    """Over the videos that have a value: those without objects have none of some scores."""
    import numpy as np

    valid = {name: values[~np.isnan(values)] for name, values in scores.items()}
    return {name: float(values.mean()) if len(values) else None for name, values in valid.items()}


def main(words: Sequence[str]) -> int:
    """Score as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: evaluate(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
