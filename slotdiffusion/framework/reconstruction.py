"""What a model's slots generate of their own videos or pictures, scored and written."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.loader import BatchSource
from core.files import replacing
from core.metrics.perceptual import load_lpips
from core.metrics.pretrained import MissingWeightsError
from core.metrics.reconstruction import reconstruction_scores
from core.provenance import FILE, Provenance
from core.training.launch import end_processes
from core.training.signals import STOPPED_EXIT_CODE
from slotdiffusion.framework.generation import Medium, Sampling, pixels_of, slots_of, to_pixels, videos_of
from slotdiffusion.framework.generation_flags import SHOWN_VIDEOS
from slotdiffusion.framework.output_folders import SampleFolder, ShownVideos, claim, free_to_write
from slotformer.framework.extraction import Trained, launched, open_trained, read_params, videos_at_a_time
from slotformer.framework.params import file_of

MEANINGS = {
    "mse": "squared error of pictures in [0, 1], summed over a frame's values",
    "psnr": "in dB",
    "ssim": "structural similarity",
    "percept_dist": "LPIPS over VGG16",
}


@dataclass(frozen=True)
class Outputs:
    """Where everything goes."""

    recon: SampleFolder
    real: SampleFolder
    scores: Path
    """A file of each sample."""


def reconstruct(arguments: Namespace, words: Sequence[str], medium: Medium) -> int:
    """Generate and score as the command line says; the exit code."""
    params = read_params(arguments, medium.task, *medium.models)
    if (code := launched(arguments, params, words)) is not None:
        return code
    folder = free_to_write(arguments.out or arguments.weight.parent)
    source, data = medium.open_test(params)
    sampling = Sampling.of(arguments, params)
    trained = open_trained(arguments, params, medium.task, {**data, **sampling.decisive})
    sampling.check(trained.model)
    wanted = params.val_batch_size if arguments.bs == -1 else arguments.bs
    batch_size = videos_at_a_time(trained.model, trained.accelerator.device, wanted)
    if arguments.save_video:
        shown, truth = (ShownVideos(folder / "vis", kind) for kind in ("recon", "gt"))
        if trained.is_main:
            shown.claim(trained.provenance)
            truth.claim(Provenance(data))
        if not show(trained, source, shown, truth, batch_size, sampling):
            return STOPPED_EXIT_CODE
        end_processes(trained.accelerator)
        return 0
    recon, real = (medium.folder(folder / "eval" / f"{side}_{medium.suffix}") for side in ("recon", "gt"))
    outputs = Outputs(recon, real, folder / "eval" / "recon_metrics")
    if trained.is_main:
        recon.claim(trained.provenance)
        claim(outputs.scores, outputs.scores / FILE, trained.provenance)
        real.claim(Provenance(data))
    percept_dist, remarks = perceptual_distance(trained)
    if not generate(trained, source, outputs, batch_size, sampling, percept_dist, medium.name):
        return STOPPED_EXIT_CODE
    trained.report_speed()
    end_processes(trained.accelerator)
    if trained.is_main:
        name = file_of(arguments.params).stem
        results = folder / f"{arguments.weight.stem}-recon-{name}.json"
        write_results(trained, source, outputs, results, remarks, medium)
    return 0


def perceptual_distance(trained: Trained) -> tuple[Callable | None, list[str]]:
    """LPIPS over VGG16; None, and a remark, if its weights are not on this machine."""
    try:
        return load_lpips("vgg").to(trained.accelerator.device), []
    except MissingWeightsError as error:
        return None, [f"percept_dist is left out. {error}"]


def generate(
    trained: Trained,
    source: BatchSource,
    outputs: Outputs,
    batch_size: int,
    sampling: Sampling,
    percept_dist: Callable | None,
    what: str,
) -> bool:
    """Write and score all samples that are not there yet; False if a signal stopped it."""
    wanted = {name for name in MEANINGS if name != "percept_dist" or percept_dist}
    recon, real, scores = outputs.recon, outputs.real, outputs.scores

    def is_done(index: int) -> bool:
        return recon.has(index) and real.has(index) and read_scores(scores, index).keys() >= wanted

    missing = [index for index in range(len(source)) if not is_done(index)]
    trained.accelerator.wait_for_everyone()  # all processes share out the same list

    def work(batch: dict[str, Tensor], indices: np.ndarray) -> None:
        videos = videos_of(batch)
        pictures = sampling.pictures(trained.model, slots_of(trained.model, batch), indices)
        with torch.autocast(videos.device.type, enabled=False):
            found = reconstruction_scores(pictures, 2 * videos - 1, percept_dist)
        rows = zip(indices.tolist(), to_pixels(pictures).numpy(), pixels_of(batch).numpy())
        for place, (index, generated, truth) in enumerate(rows):
            recon.write(index, generated)
            real.write(index, truth)
            write_scores(scores, index, {name: float(values[place].mean()) for name, values in found.items()})

    return trained.go_through(source, missing, batch_size, work, f"{what} reconstructed")


def write_scores(folder: Path, index: int, scores: Mapping[str, float]) -> None:
    """Of a sample, the means over its frames."""
    with replacing(folder / f"{index}.json") as partial:
        partial.write_text(json.dumps(scores) + "\n")


def read_scores(folder: Path, index: int) -> dict[str, float]:
    """What `write_scores` wrote; nothing if it did not."""
    path = folder / f"{index}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_results(
    trained: Trained, source: BatchSource, outputs: Outputs, results: Path, remarks: list[str], medium: Medium
) -> None:
    """Print the means over all samples and write them."""
    rows = [read_scores(outputs.scores, index) for index in range(len(source))]
    names = [name for name in MEANINGS if all(name in row for row in rows)]
    means: dict[str, float | int] = {name: sum(row[name] for row in rows) / len(rows) for name in names}
    distance, remark = medium.distance(outputs.real, outputs.recon, source, trained.accelerator.device)
    remarks = remarks + ([remark] if remark else [])
    counted = {f"num_{medium.name}": len(rows), "meanings": MEANINGS, "remarks": remarks}
    described = {**trained.provenance.to_dict(), **counted, "scores": means | distance}
    with replacing(results) as partial:
        partial.write_text(json.dumps(described, indent=2) + "\n")
    print("".join(f"note: {remark}\n" for remark in remarks), file=sys.stderr, end="")
    print("\n".join(f"test/{name}: {value:.4f}" for name, value in (means | distance).items()))
    print(f"{medium.name} in {outputs.recon.path} and {outputs.real.path}, scores in {results}")


def show(
    trained: Trained,
    source: BatchSource,
    shown: ShownVideos,
    truth: ShownVideos,
    batch_size: int,
    sampling: Sampling,
) -> bool:
    """Write the videos to look at that are not there yet; False if a signal stopped it."""
    wanted = range(min(len(source), SHOWN_VIDEOS))
    missing = [video for video in wanted if not (shown.has(video) and truth.has(video))]
    trained.accelerator.wait_for_everyone()  # all processes share out the same list

    def work(batch: dict[str, Tensor], videos: np.ndarray) -> None:
        pictures = sampling.pictures(trained.model, slots_of(trained.model, batch), videos)
        for video, generated, real in zip(videos.tolist(), to_pixels(pictures).numpy(), pixels_of(batch).numpy()):
            shown.write(video, generated)
            truth.write(video, real)

    is_finished = trained.go_through(source, missing, batch_size, work, "videos reconstructed")
    if is_finished and trained.is_main:
        print(f"{len(wanted)} videos in {shown.path}")
    return is_finished
