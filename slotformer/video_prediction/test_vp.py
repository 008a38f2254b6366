"""Score the videos that SlotFormer predicts, and show them.

    python slotformer/video_prediction/test_vp.py \\
        --params slotformer/video_prediction/configs/slotformer_obj3d_params.py \\
        --weight pretrained/slotformer_obj3d_params/model_200.pth

Clips of the validation split of OBJ3D (50 frames) or CLEVRER (48, every other one) are predicted from the first
input_frames on, and every predicted frame is scored. vis/<obj3d|clevrer>/<name of the configuration>/ gets <score>.npy,
float64 [predicted frames], <name>.mp4 (and _mask, _bbox where masks are known) and <name>.png; beside the weight goes
<weight>-vp-<name>.json with all scores, also those of the baselines. With --as_original both names end in -as_original.
Exit codes: 0 done, 1 error, 2 misuse, 130 interrupted.
"""

import json
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.commandline import positive
from core.outcome import exit_code_of
from slotformer.framework.flags import build_parser, count_or_default

if TYPE_CHECKING:
    from core.data.slots import SlotFile
    from core.metrics.video_prediction import StepMeans
    from slotformer.framework.extraction import Trained
    from slotformer.framework.params import BaseParams
    from slotformer.video_prediction.data import SlotClips

NUM_FRAMES = {"obj3d_slots": 50, "clevrer_slots": 48, "folder_slots": 12}
BATCH_SIZES = {"obj3d_slots": 12, "clevrer_slots": 8, "folder_slots": 8}
NUM_VIDEOS = 10
FPS = 4
NOT_STORED = ("ap",)


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_parser("slotformer/video_prediction/test_vp.py", __doc__)
    what = "clips at a time per process; -1 takes 12 for OBJ3D and 8 for CLEVRER (default: -1)"
    parser.add_argument("--batch_size", type=count_or_default, default=-1, metavar="N", help=what)
    what = f"only show so many clips; -1 scores all and shows {NUM_VIDEOS} (default: -1)"
    parser.add_argument("--save_num", type=count_or_default, default=-1, metavar="N", help=what)
    what = "frames of a clip, seen and predicted (default: 50 for OBJ3D, 48 for CLEVRER)"
    parser.add_argument("--n_sample_frames", type=positive, metavar="N", help=what)
    what = "score as the original does where that is not right: see the README"
    parser.add_argument("--as_original", action="store_true", help=what)
    return parser.parse(words)


def evaluate(arguments: Namespace, words: Sequence[str]) -> int:
    """Evaluate as the command line says; the exit code."""
    from core.training.launch import end_processes
    from slotformer import video_prediction
    from slotformer.framework.extraction import launched, open_trained, read_params
    from slotformer.framework.params import ParamsError, file_of
    from slotformer.video_prediction.data import open_slots
    from slotformer.video_prediction.evaluation import score_all

    params = read_params(arguments, video_prediction, "SlotFormer")
    if params.dataset not in NUM_FRAMES:
        raise ParamsError(f"dataset {params.dataset!r} is not one of {', '.join(NUM_FRAMES)}")
    num_frames = arguments.n_sample_frames or NUM_FRAMES[params.dataset]
    seen = params.rollout_dict["history_len"]
    if num_frames <= seen:
        raise ParamsError(f"--n_sample_frames {num_frames}: expected more than the {seen} frames that are seen")
    if (code := launched(arguments, params, words)) is not None:
        return code
    source = open_slots(params, "val", num_frames, pictures=True)
    trained = open_trained(arguments, params, video_prediction)
    name = file_of(arguments.params).stem + ("-as_original" if arguments.as_original else "")
    results = arguments.weight.with_name(f"{arguments.weight.stem}-vp-{name}.json")
    if not os.access(results.parent, os.W_OK):
        raise ValueError(f"{results.parent}: results cannot be written there. Copy the weight to a folder of yours")
    folder = Path("vis") / params.dataset.removesuffix("_slots") / name
    remarks = remarks_on(source, params, arguments, num_frames - seen)
    percept_dist = None if arguments.save_num > 0 else perceptual_distance(trained, remarks)
    if trained.is_main:
        print("\n".join(f"note: {remark}" for remark in remarks), file=sys.stderr, end="\n" if remarks else "")
    if arguments.save_num < 0:
        batch_size = arguments.batch_size if arguments.batch_size > 0 else BATCH_SIZES[params.dataset]
        means = score_all(trained, source, batch_size, percept_dist, as_original=arguments.as_original)
        if trained.is_main:
            described = describe(arguments, params, trained, source, num_frames) | {"remarks": remarks}
            write_scores(folder, results, means, described)
    end_processes(trained.accelerator)
    if trained.is_main:
        show(trained, source, folder, arguments.save_num if arguments.save_num > 0 else NUM_VIDEOS)
    return 0


def remarks_on(source: "SlotClips", params: "BaseParams", arguments: Namespace, rollout_len: int) -> list[str]:
    """What about the slots, the weights and the data deserves a second look."""
    remarks = remarks_on_slots(source.slots, params, rollout_len)
    if not getattr(source.clips, "masks", False):
        how = "are zeros, as the original writes them" if arguments.as_original else "are left out"
        remarks.append(f"{params.data_root} has no masks: scores of objects {how}")
    return remarks


def remarks_on_slots(slots: "SlotFile", params: "BaseParams", rollout_len: int) -> list[str]:
    """Where more is predicted than the model has learnt to, or shown by a decoder that the slots were not made for."""
    from core.provenance import file_hash, read_provenance

    remarks = []
    trained_len = params.loss_dict["rollout_len"]
    if rollout_len > trained_len:
        remarks.append(f"{rollout_len} frames are predicted, the model was trained to predict {trained_len}")
    decoder = Path(params.dec_dict.get("dec_ckp_path") or "")
    made_by = slots.provenance or read_provenance(slots.path.with_name(f"{slots.path.name}.json")) or {}
    if decoder.is_file() and made_by.get("weight_sha256", file_hash(decoder)) != file_hash(decoder):
        remarks.append(
            f"the slots in {slots.path} were made by another weight ({made_by.get('weight')}) than "
            f"dec_dict.dec_ckp_path={decoder}, whose decoder is to show them"
        )
    return remarks


def perceptual_distance(trained: "Trained", remarks: list[str]) -> Callable | None:
    """LPIPS over VGG16, or None if its weights are not on this machine, which goes to the remarks."""
    from core.metrics.perceptual import load_lpips
    from core.metrics.pretrained import MissingWeightsError

    try:
        return load_lpips("vgg").to(trained.accelerator.device)
    except MissingWeightsError as error:
        remarks.append(f"percept_dist is left out. {error}")
        return None


def describe(
    arguments: Namespace, params: "BaseParams", trained: "Trained", source: "SlotClips", num_frames: int
) -> dict[str, Any]:
    """What was scored, and how."""
    from slotformer.video_prediction.evaluation import MEANINGS

    seen, trained_len = params.rollout_dict["history_len"], params.loss_dict["rollout_len"]
    return {
        **trained.provenance.to_dict(),
        "slots": str(source.slots.path),
        "slots_provenance": {key: source.slots.provenance.get(key) for key in ("weight", "weight_sha256")},
        "dataset": params.dataset,
        "split": "val",
        "num_clips": len(source),
        "input_frames": seen,
        "rollout_len": num_frames - seen,
        "trained_rollout_len": trained_len,
        "longer_than_trained": num_frames - seen > trained_len,
        "frame_offset": params.frame_offset,
        "as_original": arguments.as_original,
        "methods": MEANINGS,
    }


def write_scores(folder: Path, results: Path, means: Mapping[str, "StepMeans"], described: dict[str, Any]) -> None:
    """Print the table, and write the steps of each score, in place of older files, and all of them as JSON."""
    from core.data.slot_writer import save_array
    from core.files import replacing
    from slotformer.video_prediction.evaluation import MODEL, over_steps

    as_original = described["as_original"]
    steps = {method: of.means() for method, of in means.items()}
    scores = {
        method: {name: over_steps(values, as_original=as_original) for name, values in of.items()}
        for method, of in steps.items()
    }
    stored = {folder / f"{name}.npy": values for name, values in steps[MODEL].items() if name not in NOT_STORED}
    for path in set(folder.glob("*.npy")) - stored.keys():
        path.unlink()  # a score that is now left out
    for path, values in stored.items():
        save_array(path, values.cpu().numpy())
    found = {
        "scores": {method: {name: _finite(value) for name, value in of.items()} for method, of in scores.items()},
        "per_step": {
            method: {name: [_finite(value) for value in values.tolist()] for name, values in of.items()}
            for method, of in steps.items()
        },
        "clips_per_step": {name: count.tolist() for name, count in means[MODEL].counts().items()},
    }
    with replacing(results) as partial:
        partial.write_text(json.dumps({**described, **found}, indent=2, allow_nan=False) + "\n")
    clips, first, count = described["num_clips"], described["input_frames"], described["rollout_len"]
    print(f"{described['dataset'].removesuffix('_slots')}, {clips:,} clips, {count} frames predicted from {first}:")
    print("\n".join(table(scores)))
    print(f"scores of each step in {folder}, all in {results}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def table(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each score, a column for each method."""
    width = max(11, *(len(method) + 2 for method in scores))
    names = list(next(iter(scores.values())))
    lines = [" " * 12 + "".join(f"{method:>{width}}" for method in scores)]
    return lines + [f"{name:12}" + "".join(f"{of[name]:>{width}.4f}" for of in scores.values()) for name in names]


def show(trained: "Trained", source: "SlotClips", folder: Path, count: int) -> None:
    """Write the videos and the picture of `count` clips, evenly spread over the set."""
    import numpy as np
    import torch

    from core.files import replacing
    from core.viz.panels import save_png
    from core.viz.videos import encode_mp4
    from slotformer.video_prediction.evaluation import batches
    from slotformer.video_prediction.prediction_videos import prediction_videos

    count = min(count, len(source))
    clips = np.arange(count) * len(source) // count
    with torch.inference_mode():
        for _, batch in batches(trained, source, clips, count, "clips drawn"):
            videos, strip = prediction_videos(trained.model, batch)
    for ending, video in videos.items():
        frames = (255 * video).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        with replacing(folder / f"{folder.name}{ending}.mp4") as partial:
            partial.write_bytes(encode_mp4(frames, FPS))
    save_png(folder / f"{folder.name}.png", strip)
    print(f"{count} clips in {folder / folder.name}.mp4 and .png")


def main(words: Sequence[str]) -> int:
    """Evaluate as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: evaluate(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
