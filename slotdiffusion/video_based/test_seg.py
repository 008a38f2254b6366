"""Score the segmentations that slots give of the test videos of MOVi.

    python slotdiffusion/video_based/test_seg.py \\
        --params slotdiffusion/video_based/configs/savi_ldm/savi_ldm_movid_params-res128.py \\
        --weight pretrained/savi_ldm_movid_params-res128.pth

A video is scored as a whole: an object must keep its slot over all frames. Prints FG-ARI, mIoU and mBO in percent, and
writes all scores to <weight>-seg-<name of the configuration>.json beside the weight. Exit codes: 0 done, 1 error, 2
misuse, 75 stopped by a signal, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser, count_or_default


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
    from torch import Tensor

    from core.metrics.segmentation import hard_labels, segmentation_scores
    from core.training.launch import end_processes
    from core.training.signals import STOPPED_EXIT_CODE
    from slotdiffusion import video_based
    from slotdiffusion.framework.segmentation import (
        means_of,
        named_data,
        print_scores,
        results_file,
        score_all,
        write_scores,
    )
    from slotdiffusion.video_based.data import has_masks, open_beginnings
    from slotformer.framework.extraction import launched, open_trained, read_params, videos_at_a_time
    from slotformer.framework.params import ParamsError, file_of

    params = read_params(arguments, video_based, "SAViDiffusion", "SAVi", "STEVE")
    params.load_mask = True
    if not has_masks(params):
        raise ParamsError(
            f"dataset {params.dataset!r} has no masks to compare with: use movi, steve_movi or a folder with masks"
        )
    if (code := launched(arguments, params, words)) is not None:
        return code
    params.as_original = arguments.as_original or params.get("as_original", False)
    sources = open_beginnings(params, arguments.seq_len)
    trained = open_trained(arguments, params, video_based)
    name = file_of(arguments.params).stem
    results = results_file(arguments.weight, name)
    batch_size = params.val_batch_size if arguments.bs < 0 else arguments.bs
    videos_at_a_time(trained.model, trained.accelerator.device)

    def scores_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        labels = hard_labels(trained.model.segment(batch))
        return segmentation_scores(batch["mask"], labels, as_original=params.as_original)

    found = {}
    for length, source in sources.items():
        scores = score_all(trained, source, batch_size, scores_of, "videos")
        if scores is None:
            return STOPPED_EXIT_CODE
        found[length] = means_of(scores)
        if trained.is_main:
            print(f"{name}, L={length}")
            print_scores(found[length])
    end_processes(trained.accelerator)
    if trained.is_main:
        described = {
            **trained.provenance.to_dict(),
            **named_data(params),
            "split": "test",
            "num_videos": len(source),
            "as_original": params.as_original,
            "scores": {str(length): scores for length, scores in found.items()},
        }
        write_scores(results, described)
    return 0


def main(words: Sequence[str]) -> int:
    """Score as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: evaluate(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
