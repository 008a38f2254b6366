"""Score and write the videos that a model of dynamics predicts of Physion's test subset.

    python slotdiffusion/vp_vqa/test_vp.py \\
        --params slotdiffusion/vp_vqa/configs/ldmslotformer_physion_params-res128.py \\
        --weight pretrained/savi_ldm_slotformer_physion_params-res128.pth

Every frame_offset-th frame of a video counts: the first input_frames are seen, the others predicted. Reads
physion_test_slots.h5 (or .pkl, or test_slots) in the folder of the configuration's slots_root. eval/pred_vids/<index>/
<frame>.png and eval/gt_vids/... get the predicted frames and the real ones, beside the weight; scores, for each step
and on average, go to <weight>-vp-<name of the configuration>.json. With --save_video there are vis/<index>_pred.mp4 and
_gt.mp4 instead, of whole videos. Run with --ddp, or under torchrun or accelerate launch, processes share the videos.
The same command continues an interrupted one. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal, 130
interrupted.
"""

import json
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.outcome import exit_code_of
from slotdiffusion.framework.generation_flags import SHOWN_VIDEOS, build_video_parser

if TYPE_CHECKING:
    import numpy as np

    from slotdiffusion.framework.generation import Sampling
    from slotdiffusion.framework.output_folders import ShownVideos, VideoFolder
    from slotdiffusion.vp_vqa.prediction import ScoreFolder
    from slotformer.framework.extraction import Trained
    from slotformer.framework.params import BaseParams
    from slotformer.video_prediction.data import SlotClips

DATA = ("tasks", "data_root", "resolution", "video_len", "frame_offset", "input_frames")
"""Keys that decide which frames are predicted."""


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    return build_video_parser("slotdiffusion/vp_vqa/test_vp.py", __doc__).parse(words)


def evaluate(arguments: Namespace, words: Sequence[str]) -> int:
    """Predict and score as the command line says; the exit code."""
    from core.provenance import FILE, Provenance
    from core.training.launch import end_processes
    from core.training.signals import STOPPED_EXIT_CODE
    from slotdiffusion import vp_vqa
    from slotdiffusion.framework.generation import Sampling
    from slotdiffusion.framework.output_folders import ShownVideos, VideoFolder, claim, free_to_write
    from slotdiffusion.vp_vqa.data import open_test_videos
    from slotdiffusion.vp_vqa.models import DYNAMICS
    from slotdiffusion.vp_vqa.prediction import ScoreFolder
    from slotformer.framework.extraction import VIDEOS_AT_A_TIME, launched, open_trained, read_params
    from slotformer.framework.params import ParamsError, file_of
    from slotformer.video_prediction.rollouts import origin_of
    from slotformer.video_prediction.test_vp import perceptual_distance, remarks_on_slots

    params = read_params(arguments, vp_vqa, DYNAMICS)
    if (rollout_len := steps_of(params)) < 1:
        raise ParamsError(f"video_len={params.video_len} leaves no frame to predict after input_frames")
    if (code := launched(arguments, params, words)) is not None:
        return code
    folder = free_to_write(arguments.out or arguments.weight.parent)
    source = open_test_videos(params)
    data = {key: params.to_dict()[key] for key in DATA if key in params}
    sampling = Sampling.of(arguments, params)
    decisive = {**data, "slots": origin_of(source.slots), **sampling.decisive}
    trained = open_trained(arguments, params, vp_vqa, decisive)
    sampling.check(trained.model)
    remarks = remarks_on_slots(source.slots, params, rollout_len)
    batch_size = arguments.bs or VIDEOS_AT_A_TIME[trained.accelerator.device.type]
    if arguments.save_video:
        shown = {kind: ShownVideos(folder / "vis", kind) for kind in ("pred", "gt")}
        if trained.is_main:
            shown["pred"].claim(trained.provenance)
            shown["gt"].claim(Provenance(data))
        if not show(trained, source, shown, sampling, batch_size):
            return STOPPED_EXIT_CODE
        end_processes(trained.accelerator)
        return 0
    pred, real = VideoFolder(folder / "eval" / "pred_vids"), VideoFolder(folder / "eval" / "gt_vids")
    scores = ScoreFolder(folder / "eval" / "pred_metrics")
    if trained.is_main:
        pred.claim(trained.provenance)
        claim(scores.path, scores.path / FILE, trained.provenance)
        real.claim(Provenance(data))
    if not generate(trained, source, pred, real, scores, sampling, batch_size, perceptual_distance(trained, remarks)):
        return STOPPED_EXIT_CODE
    trained.report_speed()
    end_processes(trained.accelerator)
    if trained.is_main:
        results = folder / f"{arguments.weight.stem}-vp-{file_of(arguments.params).stem}.json"
        described = {"slots_file": str(source.slots.path), "input_frames": trained.model.history_len}
        write_results(trained, len(source), rollout_len, pred, real, scores, results, described, remarks)
    return 0


def steps_of(params: "BaseParams") -> int:
    """How many frames of a video are predicted."""
    return params.video_len // params.frame_offset - params.rollout_dict["history_len"]


def generate(
    trained: "Trained",
    source: "SlotClips",
    pred: "VideoFolder",
    real: "VideoFolder",
    scores: "ScoreFolder",
    sampling: "Sampling",
    batch_size: int,
    percept_dist: Callable | None,
) -> bool:
    """Write and score all videos that are not there yet; False if a signal stopped it."""
    from slotdiffusion.framework.generation import to_pixels
    from slotdiffusion.vp_vqa.prediction import SCORES, predict, score

    wanted = {name for name in SCORES if name != "percept_dist" or percept_dist}
    missing = [
        video for video in range(len(source)) if not (pred.has(video) and real.has(video) and scores.has(video, wanted))
    ]
    trained.accelerator.wait_for_everyone()  # all processes share out the same list

    def work(batch: Mapping, videos: "np.ndarray") -> None:
        found = predict(trained.model, batch, videos.tolist(), sampling.seed, **sampling.solver)
        rows = zip(
            videos.tolist(),
            to_pixels(found.pictures).numpy(),
            to_pixels(found.truth).numpy(),
            score(found, percept_dist),
        )
        for video, predicted, truth, values in rows:
            pred.write(video, predicted)
            real.write(video, truth)
            scores.write(video, values)

    return trained.go_through(source, missing, batch_size, work, "videos predicted")


def write_results(
    trained: "Trained",
    num_videos: int,
    rollout_len: int,
    pred: "VideoFolder",
    real: "VideoFolder",
    scores: "ScoreFolder",
    results: Path,
    described: dict[str, Any],
    remarks: list[str],
) -> None:
    """Print the means over all videos and write them, also of each step."""
    from core.files import replacing
    from slotdiffusion.framework.output_folders import fvd
    from slotdiffusion.vp_vqa.models import DYNAMICS
    from slotdiffusion.vp_vqa.prediction import MEANINGS, SCORES
    from slotformer.video_prediction.evaluation import over_steps
    from slotformer.video_prediction.test_vp import table

    steps = scores.step_means(num_videos)
    means = {method: {name: over_steps(values) for name, values in of.items()} for method, of in steps.items()}
    distance, remark = fvd(real, pred, range(num_videos), rollout_len, trained.accelerator.device)
    remarks = [*remarks, remark] if remark else remarks
    found = {
        **trained.provenance.to_dict(),
        **described,
        "num_videos": num_videos,
        "rollout_len": rollout_len,
        "methods": MEANINGS,
        "meanings": SCORES,
        "remarks": remarks,
        "scores": {method: {name: _finite(value) for name, value in of.items()} for method, of in means.items()},
        "per_step": {
            method: {name: [_finite(value) for value in values.tolist()] for name, values in of.items()}
            for method, of in steps.items()
        },
        **({"frechet_distance": distance} if distance else {}),
    }
    with replacing(results) as partial:
        partial.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    print("".join(f"note: {remark}\n" for remark in remarks), file=sys.stderr, end="")
    print("\n".join(f"test/{name}: {value:.4f}" for name, value in (means[DYNAMICS] | distance).items()))
    print(f"{num_videos:,} videos, {rollout_len} frames predicted:")
    print("\n".join(table(means)))
    print(f"frames in {pred.path} and {real.path}, scores in {results}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def show(
    trained: "Trained", source: "SlotClips", shown: "Mapping[str, ShownVideos]", sampling: "Sampling", batch_size: int
) -> bool:
    """Write the videos to look at that are not there yet, with the frames that were seen; False if a signal stopped it.

    `shown` are `pred` and `gt`.
    """
    import torch

    from slotdiffusion.framework.generation import to_pixels
    from slotdiffusion.vp_vqa.prediction import predict

    wanted = range(min(len(source), SHOWN_VIDEOS))
    missing = [video for video in wanted if not all(videos.has(video) for videos in shown.values())]
    trained.accelerator.wait_for_everyone()  # all processes share out the same list

    def work(batch: Mapping, videos: "np.ndarray") -> None:
        found = predict(trained.model, batch, videos.tolist(), sampling.seed, **sampling.solver)
        seen = 2 * batch["video"][:, : trained.model.history_len] - 1
        columns = {"pred": found.pictures, "gt": found.truth}
        for kind, frames in columns.items():
            for video, pixels in zip(videos.tolist(), to_pixels(torch.cat([seen, frames], dim=1)).numpy()):
                shown[kind].write(video, pixels)

    is_finished = trained.go_through(source, missing, batch_size, work, "videos predicted")
    if is_finished and trained.is_main:
        print(f"{len(wanted)} videos in {shown['pred'].path}")
    return is_finished


def main(words: Sequence[str]) -> int:
    """Predict and score as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: evaluate(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
