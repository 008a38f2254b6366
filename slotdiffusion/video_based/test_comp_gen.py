"""Generate videos of slots that come from different test videos, and write them beside the real ones.

    python slotdiffusion/video_based/test_comp_gen.py \\
        --params slotdiffusion/video_based/configs/savi_ldm/savi_ldm_movid_params-res128.py \\
        --weight pretrained/savi_ldm_movid_params-res128.pth

Every slot of a video comes from another video of the whole set. eval/comp_vids/<index>/<frame>.png and
eval/gt_vids/... get the frames, generated and real, beside the weight, and <weight>-comp_gen-<name of the
configuration>.json the FVD between them, where I3D is at hand. With --save_video there are vis/<index>_comp.mp4
instead. Run with --ddp, or under torchrun or accelerate launch, processes share the videos. The same command continues
an interrupted one. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal, 130 interrupted.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.outcome import exit_code_of
from slotdiffusion.video_based.generation_flags import SHOWN_VIDEOS, build_generation_parser

if TYPE_CHECKING:
    from core.data.clip_reader import ClipReader
    from slotdiffusion.video_based.mixing import Donors
    from slotdiffusion.video_based.video_folders import VideoFolder
    from slotformer.framework.extraction import Trained


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_generation_parser("slotdiffusion/video_based/test_comp_gen.py", __doc__)
    what = "exchange slots as the original does, within batches of --bs: those from that number on stay"
    parser.add_argument("--as_original", action="store_true", help=what)
    arguments = parser.parse(words)
    if arguments.as_original and not arguments.bs:
        parser.error("--as_original needs --bs: what the original generates depends on its batches")
    return arguments


def evaluate(arguments: Namespace, words: Sequence[str]) -> int:
    """Generate as the command line says; the exit code."""
    from core.provenance import Provenance
    from core.training.launch import end_processes
    from core.training.signals import STOPPED_EXIT_CODE
    from slotdiffusion import video_based
    from slotdiffusion.video_based.generation import MODELS, described_data, open_test_videos
    from slotdiffusion.video_based.mixing import donors_of_original, donors_of_set
    from slotdiffusion.video_based.video_folders import VideoFolder, free_to_write
    from slotformer.framework.extraction import launched, open_trained, read_params, videos_at_a_time
    from slotformer.framework.params import file_of

    params = read_params(arguments, video_based, *MODELS)
    if (code := launched(arguments, params, words)) is not None:
        return code
    folder = free_to_write(arguments.out or arguments.weight.parent)
    source = open_test_videos(params)
    data = described_data(params, source)
    mixing = {"mixing": f"as the original, in batches of {arguments.bs}" if arguments.as_original else "the whole set"}
    trained = open_trained(arguments, params, video_based, {**data, **mixing, "seed": arguments.seed})
    batch_size = videos_at_a_time(trained.model, trained.accelerator.device, arguments.bs)
    num_slots = trained.model.init_latents.shape[1]
    if arguments.as_original:
        donors = donors_of_original(len(source), num_slots, arguments.bs)
    else:
        donors = donors_of_set(len(source), num_slots, arguments.seed)
    generated, real = VideoFolder(folder / "eval" / "comp_vids"), VideoFolder(folder / "eval" / "gt_vids")
    if trained.is_main and not arguments.save_video:
        generated.claim(trained.provenance)
        real.claim(Provenance(data))
    target = folder / "vis" if arguments.save_video else generated
    if not generate(trained, source, donors, target, real, batch_size, arguments.seed):
        return STOPPED_EXIT_CODE
    trained.report_speed()
    end_processes(trained.accelerator)
    if trained.is_main and not arguments.save_video:
        name = file_of(arguments.params).stem
        results = folder / f"{arguments.weight.stem}-comp_gen-{name}.json"
        write_results(trained, source, generated, real, results, donors.tolist())
    elif trained.is_main:
        print(f"{min(len(source), SHOWN_VIDEOS)} videos in {target}")
    return 0


def generate(
    trained: "Trained",
    source: "ClipReader",
    donors: "Donors",
    target: "VideoFolder | Path",
    real: "VideoFolder",
    batch_size: int,
    seed: int,
) -> bool:
    """Write all videos that are not there yet, as folders of frames or as mp4; False if a signal stopped it."""
    import torch

    from slotdiffusion.video_based.generation import picture_of, pixels_of, start_noise, to_pixels
    from slotdiffusion.video_based.mixing import mixed
    from slotdiffusion.video_based.video_folders import write_mp4

    is_mp4 = isinstance(target, Path)
    wanted = range(min(len(source), SHOWN_VIDEOS) if is_mp4 else len(source))
    missing = [video for video in wanted if is_mp4 or not (target.has(video) and real.has(video))]
    trained.accelerator.wait_for_everyone()  # all processes share out the same list
    slots = extract(trained, source, batch_size) if missing else {}
    if slots is None:
        return False

    def work(batch: Mapping, videos: Sequence[int]) -> None:
        device = batch["video"].device
        chosen = torch.from_numpy(mixed(slots, donors[videos])).to(device)
        pictures = to_pixels(picture_of(trained.model, chosen, start_noise(seed, videos, device))).numpy()
        for video, frames, truth in zip(videos, pictures, pixels_of(batch).numpy()):
            if is_mp4:
                write_mp4(target / f"{video}_comp.mp4", frames)
            else:
                target.write(video, frames)
                real.write(video, truth)

    return trained.go_through(source, missing, batch_size, work, "videos generated")


def extract(trained: "Trained", source: "ClipReader", batch_size: int) -> Any:
    """The slots of all videos, [V, T, N, D] float32, in every process; None if a signal stopped it."""
    import numpy as np
    from accelerate.utils import gather_object

    found: list[tuple[int, np.ndarray]] = []

    def add(batch: Mapping, videos: Sequence[int]) -> None:
        found.extend(zip(map(int, videos), trained.model.extract(batch).float().cpu().numpy()))

    if not trained.go_through(source, range(len(source)), batch_size, add, "slots of videos"):
        return None
    everything = gather_object(found) if trained.accelerator.num_processes > 1 else found
    return np.stack([slots for _, slots in sorted(everything, key=lambda item: item[0])])


def write_results(
    trained: "Trained",
    source: "ClipReader",
    generated: "VideoFolder",
    real: "VideoFolder",
    results: Path,
    donors: list[list[int]],
) -> None:
    """Print the FVD, if it can be had, and write it with the origin of every slot."""
    from core.files import replacing
    from slotdiffusion.video_based.video_folders import fvd

    scores, remark = fvd(real, generated, range(len(source)), source.num_frames, trained.accelerator.device)
    described = {**trained.provenance.to_dict(), "num_videos": len(source), "remarks": [remark] if remark else []}
    with replacing(results) as partial:
        partial.write_text(json.dumps({**described, "scores": scores, "donors": donors}, indent=2) + "\n")
    if remark:
        print(f"note: {remark}", file=sys.stderr)
    print("".join(f"test/{name}: {value:.4f}\n" for name, value in scores.items()), end="")
    print(f"frames in {generated.path} and {real.path}, what was mixed in {results}")


def main(words: Sequence[str]) -> int:
    """Generate as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: evaluate(arguments, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
