"""Score and write what a model's slots generate of their own videos, those of the test split.

    python slotdiffusion/video_based/test_recon.py \\
        --params slotdiffusion/video_based/configs/savi_ldm/savi_ldm_movid_params-res128.py \\
        --weight pretrained/savi_ldm_movid_params-res128.pth

eval/recon_vids/<index>/<frame>.png and eval/gt_vids/... get the frames, generated and real, beside the weight; scores
go to <weight>-recon-<name of the configuration>.json. With --save_video there are vis/<index>_recon.mp4 and _gt.mp4
instead. Run with --ddp, or under torchrun or accelerate launch, processes share the videos. The same command continues
an interrupted one. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal, 130 interrupted.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.outcome import exit_code_of
from slotdiffusion.video_based.generation_flags import SHOWN_VIDEOS, build_generation_parser

if TYPE_CHECKING:
    from core.data.clip_reader import ClipReader
    from slotdiffusion.video_based.video_folders import VideoFolder
    from slotformer.framework.extraction import Trained

MEANINGS = {
    "mse": "squared error of pictures in [0, 1], summed over a frame's values",
    "psnr": "in dB",
    "ssim": "structural similarity",
    "percept_dist": "LPIPS over VGG16",
}


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    return build_generation_parser("slotdiffusion/video_based/test_recon.py", __doc__).parse(words)


def evaluate(arguments: Namespace, words: Sequence[str]) -> int:
    """Generate and score as the command line says; the exit code."""
    from core.provenance import Provenance
    from core.training.launch import end_processes
    from core.training.signals import STOPPED_EXIT_CODE
    from slotdiffusion import video_based
    from slotdiffusion.video_based.generation import MODELS, described_data, open_test_videos
    from slotdiffusion.video_based.video_folders import VideoFolder, free_to_write
    from slotformer.framework.extraction import launched, open_trained, read_params, videos_at_a_time
    from slotformer.framework.params import file_of

    params = read_params(arguments, video_based, *MODELS)
    if (code := launched(arguments, params, words)) is not None:
        return code
    folder = free_to_write(arguments.out or arguments.weight.parent)
    source = open_test_videos(params)
    data = described_data(params, source)
    trained = open_trained(arguments, params, video_based, {**data, "seed": arguments.seed})
    batch_size = videos_at_a_time(trained.model, trained.accelerator.device, arguments.bs)
    if arguments.save_video:
        if not write_mp4s(trained, source, folder / "vis", batch_size, arguments.seed):
            return STOPPED_EXIT_CODE
        end_processes(trained.accelerator)
        return 0
    recon, real = VideoFolder(folder / "eval" / "recon_vids"), VideoFolder(folder / "eval" / "gt_vids")
    scores = folder / "eval" / "recon_metrics"
    if trained.is_main:
        recon.claim(trained.provenance)
        trained.provenance.claim(scores)
        real.claim(Provenance(data))
    percept_dist, remarks = perceptual_distance(trained)
    if not generate(trained, source, recon, real, scores, batch_size, arguments.seed, percept_dist):
        return STOPPED_EXIT_CODE
    trained.report_speed()
    end_processes(trained.accelerator)
    if trained.is_main:
        name = file_of(arguments.params).stem
        results = folder / f"{arguments.weight.stem}-recon-{name}.json"
        write_results(trained, source, recon, real, scores, results, remarks)
    return 0


def perceptual_distance(trained: "Trained") -> tuple[Callable | None, list[str]]:
    """LPIPS over VGG16; None, and a remark, if its weights are not on this machine."""
    from core.metrics.perceptual import load_lpips
    from core.metrics.pretrained import MissingWeightsError

    try:
        return load_lpips("vgg").to(trained.accelerator.device), []
    except MissingWeightsError as error:
        return None, [f"percept_dist is left out. {error}"]


def generate(
    trained: "Trained",
    source: "ClipReader",
    recon: "VideoFolder",
    real: "VideoFolder",
    scores: Path,
    batch_size: int,
    seed: int,
    percept_dist: Callable | None,
) -> bool:
    """Write and score all videos that are not there yet; False if a signal stopped it."""
    import torch

    from core.metrics.reconstruction import reconstruction_scores
    from slotdiffusion.video_based.generation import picture_of, pixels_of, start_noise, to_pixels

    wanted = {name for name in MEANINGS if name != "percept_dist" or percept_dist}

    def is_done(video: int) -> bool:
        return recon.has(video) and real.has(video) and read_scores(scores, video).keys() >= wanted

    missing = [video for video in range(len(source)) if not is_done(video)]
    trained.accelerator.wait_for_everyone()  # all processes share out the same list

    def work(batch: Mapping, videos: Sequence[int]) -> None:
        device = batch["video"].device
        pictures = picture_of(trained.model, trained.model.extract(batch), start_noise(seed, videos, device))
        with torch.autocast(device.type, enabled=False):
            found = reconstruction_scores(pictures, 2 * batch["video"] - 1, percept_dist)
        rows = zip(videos, to_pixels(pictures).numpy(), pixels_of(batch).numpy())
        for place, (video, generated, truth) in enumerate(rows):
            recon.write(video, generated)
            real.write(video, truth)
            write_scores(scores, video, {name: float(values[place].mean()) for name, values in found.items()})

    return trained.go_through(source, missing, batch_size, work, "videos reconstructed")


def write_scores(folder: Path, video: int, scores: Mapping[str, float]) -> None:
    """Of a video, the means over its frames."""
    from core.files import replacing

    with replacing(folder / f"{video}.json") as partial:
        partial.write_text(json.dumps(scores) + "\n")


def read_scores(folder: Path, video: int) -> dict[str, float]:
    """What `write_scores` wrote; nothing if it did not."""
    path = folder / f"{video}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_results(
    trained: "Trained",
    source: "ClipReader",
    recon: "VideoFolder",
    real: "VideoFolder",
    scores: Path,
    results: Path,
    remarks: list[str],
) -> None:
    """Print the means over all videos and write them."""
    from core.files import replacing
    from slotdiffusion.video_based.video_folders import fvd

    videos = range(len(source))
    rows = [read_scores(scores, video) for video in videos]
    names = [name for name in MEANINGS if all(name in row for row in rows)]
    means: dict[str, float | int] = {name: sum(row[name] for row in rows) / len(rows) for name in names}
    distance, remark = fvd(real, recon, videos, source.num_frames, trained.accelerator.device)
    remarks = remarks + ([remark] if remark else [])
    described = {**trained.provenance.to_dict(), "num_videos": len(rows), "meanings": MEANINGS, "remarks": remarks}
    with replacing(results) as partial:
        partial.write_text(json.dumps({**described, "scores": means | distance}, indent=2) + "\n")
    print("".join(f"note: {remark}\n" for remark in remarks), file=sys.stderr, end="")
    print("\n".join(f"test/{name}: {value:.4f}" for name, value in (means | distance).items()))
    print(f"frames in {recon.path} and {real.path}, scores in {results}")


def write_mp4s(trained: "Trained", source: "ClipReader", folder: Path, batch_size: int, seed: int) -> bool:
    """Videos to look at; False if a signal stopped it."""
    from slotdiffusion.video_based.generation import picture_of, pixels_of, start_noise, to_pixels
    from slotdiffusion.video_based.video_folders import write_mp4

    def work(batch: Mapping, videos: Sequence[int]) -> None:
        noise = start_noise(seed, videos, batch["video"].device)
        pictures = picture_of(trained.model, trained.model.extract(batch), noise)
        for video, generated, truth in zip(videos, to_pixels(pictures).numpy(), pixels_of(batch).numpy()):
            write_mp4(folder / f"{video}_recon.mp4", generated)
            write_mp4(folder / f"{video}_gt.mp4", truth)

    shown = range(min(len(source), SHOWN_VIDEOS))
    is_finished = trained.go_through(source, shown, batch_size, work, "videos reconstructed")
    if is_finished and trained.is_main:
        print(f"{len(shown)} videos in {folder}")
    return is_finished


def main(words: Sequence[str]) -> int:
    """Generate and score as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: evaluate(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
