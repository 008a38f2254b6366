"""Score the segmentations that slots give of the test pictures.

    python slotdiffusion/img_based/test_seg.py \\
        --params slotdiffusion/img_based/configs/sa_ldm/sa_ldm_clevrtex_params-res128.py \\
        --weight pretrained/sa_ldm_clevrtex_params-res128.pth

Prints FG-ARI, mIoU and mBO in percent, and writes all scores to <weight>-seg-<name of the configuration>.json beside
the weight. COCO and PASCAL VOC are scored by their objects (inst/) and by classes (sem/), without the pixels that
belong to several objects or to none for certain. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal, 130
interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser, count_or_default

CLASSIFIED = ("coco", "voc")
"""Data sets with classes of objects."""


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_parser("slotdiffusion/img_based/test_seg.py", __doc__)
    what = "pictures at a time per process; -1 takes the configuration's val_batch_size (default: -1)"
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
    from slotdiffusion import img_based
    from slotdiffusion.framework.segmentation import (
        means_of,
        named_data,
        print_scores,
        results_file,
        score_all,
        write_scores,
    )
    from slotdiffusion.img_based.data import has_masks, open_split
    from slotdiffusion.img_based.generation import MODELS
    from slotformer.framework.extraction import launched, open_trained, read_params
    from slotformer.framework.params import ParamsError, file_of

    params = read_params(arguments, img_based, *MODELS)
    params.load_mask = params.load_anno = True
    if not has_masks(params):
        raise ParamsError(
            f"dataset {params.dataset!r} has no masks to compare with: use clevrtex, coco, voc or a folder with masks"
        )
    if (code := launched(arguments, params, words)) is not None:
        return code
    as_original = arguments.as_original or params.get("as_original", False)
    source = open_split(params, "test", True)
    trained = open_trained(arguments, params, img_based)
    name = file_of(arguments.params).stem
    results = results_file(arguments.weight, name)
    truths = {"inst/": "mask", "sem/": "semantic"} if params.dataset in CLASSIFIED else {"": "mask"}

    def scores_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        labels, overlap = hard_labels(trained.model.segment(batch)), batch.get("overlap")
        return {
            f"{prefix}{score}": values
            for prefix, key in truths.items()
            for score, values in segmentation_scores(batch[key], labels, overlap, as_original=as_original).items()
        }

    batch_size = params.val_batch_size if arguments.bs < 0 else arguments.bs
    scores = score_all(trained, source, batch_size, scores_of, "pictures")
    if scores is None:
        return STOPPED_EXIT_CODE
    end_processes(trained.accelerator)
    if trained.is_main:
        means = means_of(scores)
        print(name)
        for prefix in truths:
            print_scores(means, prefix)
        described = {
            **trained.provenance.to_dict(),
            **named_data(params),
            "num_pictures": len(source),
            "as_original": as_original,
            "scores": means,
        }
        write_scores(results, described)
    return 0


def main(words: Sequence[str]) -> int:
    """Score as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: evaluate(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
