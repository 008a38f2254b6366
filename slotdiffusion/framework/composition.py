"""Videos or pictures of slots that come from different samples, written beside the real ones."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Float32
from torch import Tensor

from core.data.loader import BatchSource
from core.files import replacing
from core.provenance import Provenance
from core.training.launch import end_processes
from core.training.signals import STOPPED_EXIT_CODE
from slotdiffusion.framework.generation import Medium, Sampling, pixels_of, slots_of, to_pixels
from slotdiffusion.framework.generation_flags import SHOWN_VIDEOS
from slotdiffusion.framework.mixing import Donors, donors_of_original, donors_of_set, mixed
from slotdiffusion.framework.output_folders import SampleFolder, ShownVideos, free_to_write
from slotformer.framework.extraction import Trained, launched, open_trained, read_params, videos_at_a_time
from slotformer.framework.params import file_of


def compose(arguments: Namespace, words: Sequence[str], medium: Medium) -> int:
    """Generate as the command line says; the exit code."""
    params = read_params(arguments, medium.task, *medium.models)
    if (code := launched(arguments, params, words)) is not None:
        return code
    folder = free_to_write(arguments.out or arguments.weight.parent)
    source, data = medium.open_test(params)
    wanted = params.val_batch_size if arguments.bs == -1 else arguments.bs
    mixing = {"mixing": f"as the original, in batches of {wanted}" if arguments.as_original else "the whole set"}
    sampling = Sampling.of(arguments, params)
    trained = open_trained(arguments, params, medium.task, {**data, **mixing, **sampling.decisive})
    sampling.check(trained.model)
    batch_size = videos_at_a_time(trained.model, trained.accelerator.device, wanted)
    num_slots = trained.model.init_latents.shape[1]
    if arguments.as_original:
        donors = donors_of_original(len(source), num_slots, wanted)
    else:
        donors = donors_of_set(len(source), num_slots, arguments.seed)
    if arguments.save_video:
        shown = ShownVideos(folder / "vis", "comp")
        if trained.is_main:
            shown.claim(trained.provenance)
        count = min(len(source), SHOWN_VIDEOS)
        if not generate(trained, source, count, donors, shown, None, batch_size, sampling, medium.name):
            return STOPPED_EXIT_CODE
        trained.report_speed()
        end_processes(trained.accelerator)
        if trained.is_main:
            print(f"{count} videos in {shown.path}")
        return 0
    generated, real = (medium.folder(folder / "eval" / f"{side}_{medium.suffix}") for side in ("comp", "gt"))
    if trained.is_main:
        generated.claim(trained.provenance)
        real.claim(Provenance(data))
    if not generate(trained, source, len(source), donors, generated, real, batch_size, sampling, medium.name):
        return STOPPED_EXIT_CODE
    trained.report_speed()
    end_processes(trained.accelerator)
    if trained.is_main:
        name = file_of(arguments.params).stem
        results = folder / f"{arguments.weight.stem}-comp_gen-{name}.json"
        write_results(trained, source, generated, real, results, donors.tolist(), medium)
    return 0


def generate(
    trained: Trained,
    source: BatchSource,
    count: int,
    donors: Donors,
    target: SampleFolder | ShownVideos,
    real: SampleFolder | None,
    batch_size: int,
    sampling: Sampling,
    what: str,
) -> bool:
    """Write the first `count` samples that are not there yet; False if a signal stopped it."""
    missing = [index for index in range(count) if not (target.has(index) and (real is None or real.has(index)))]
    trained.accelerator.wait_for_everyone()  # all processes share out the same list
    slots = extract(trained, source, batch_size, what) if missing else {}
    if slots is None:
        return False

    def work(batch: dict[str, Tensor], indices: np.ndarray) -> None:
        device = trained.accelerator.device
        chosen = torch.from_numpy(mixed(slots, donors[indices])).to(device)
        pictures = to_pixels(sampling.pictures(trained.model, chosen, indices)).numpy()
        for index, frames, truth in zip(indices.tolist(), pictures, pixels_of(batch).numpy()):
            target.write(index, frames)
            if real is not None:
                real.write(index, truth)

    return trained.go_through(source, missing, batch_size, work, f"{what} generated")


def extract(trained: Trained, source: BatchSource, batch_size: int, what: str) -> Float32[np.ndarray, "V T N D"] | None:
    """The slots of all samples, in every process; None if a signal stopped it."""
    found: list[tuple[int, np.ndarray]] = []

    def add(batch: dict[str, Tensor], indices: np.ndarray) -> None:
        found.extend(zip(indices.tolist(), slots_of(trained.model, batch).float().cpu().numpy()))

    if not trained.go_through(source, range(len(source)), batch_size, add, f"slots of {what}"):
        return None
    everything = gather_object(found) if trained.accelerator.num_processes > 1 else found
    return np.stack([slots for _, slots in sorted(everything, key=lambda item: item[0])])


def write_results(
    trained: Trained,
    source: BatchSource,
    generated: SampleFolder,
    real: SampleFolder,
    results: Path,
    donors: list[list[int]],
    medium: Medium,
) -> None:
    """Print the distance, if it can be had, and write it with the origin of every slot."""
    scores, remark = medium.distance(real, generated, source, trained.accelerator.device)
    counted = {f"num_{medium.name}": len(source), "remarks": [remark] if remark else []}
    described = {**trained.provenance.to_dict(), **counted, "scores": scores, "donors": donors}
    with replacing(results) as partial:
        partial.write_text(json.dumps(described, indent=2) + "\n")
    if remark:
        print(f"note: {remark}", file=sys.stderr)
    print("".join(f"test/{name}: {value:.4f}\n" for name, value in scores.items()), end="")
    print(f"{medium.name} in {generated.path} and {real.path}, what was mixed in {results}")
