"""Render videos of scenes as a trained model sees them, with a camera that moves.

    python osrt/render.py osrt/runs/clevr3d/osrt/config.yaml --motion rotate_and_closeup --fade --sceneid 3

Writes render/<name>/<sceneid>/ beside the configuration: input_<view>.png, one picture per frame in renders/,
segmentations/ and depths/ (as far as the decoder gives them), and video.mp4, made of the plots in frames/. The same
command continues an interrupted rendering; other weights or settings begin anew. Model and data set are those that the
checkpoint was trained with, whatever the configuration says since; --set changes them. Checkpoints of the original
code do not say them: there the configuration counts. Exit codes: 0 done, 1 error, 2 misuse, 75 stopped by a signal, 130
interrupted.
"""

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.commandline import StrictParser, natural, positive
from core.outcome import exit_code_of


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser("osrt/render.py", __doc__)
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help="configuration in the folder of a run")
    what = "rotate, zoom, closeup, rotate_and_closeup or eyeroll (default: rotate)"
    add("--motion", default="rotate", metavar="MOTION", help=what)
    add("--fade", action="store_true", help="let the motion gain and lose speed gently")
    add("--num_frames", type=positive, default=360, metavar="N", help="frames (default: 360); 60 are shown a second")
    add("--height", type=positive, metavar="N", help="of the pictures (default: as the first input view)")
    add("--width", type=positive, metavar="N", help="likewise")
    add("--sceneid", type=natural, default=0, metavar="N", help="number of the scene in its split (default: 0)")
    what = "the first of several scenes, in place of --sceneid"
    add("--sceneid_start", type=natural, metavar="N", help=what)
    add("--sceneid_stop", type=natural, metavar="N", help="the scene after the last (default: one scene)")
    add("--train", action="store_true", help="scenes of the training split (default: validation)")
    add("--name", metavar="NAME", help="of the folder below render/ (default: the motion)")
    add("--it", type=natural, metavar="N", help="checkpoint model_<N>.pt in place of model.pt")
    what = "further arguments of a decoder that samples volumes, as in '{\"num_coarse_samples\": 64}'"
    add("--render_kwargs", type=json_object, default={}, metavar="JSON", help=what)
    add("--novideo", action="store_true", help="pictures only")
    add("--gif", action="store_true", help="write the video as a gif, too")
    what = "another value for a key of the configuration, as in data.path=DIR"
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=what)
    add("--seed", type=natural, default=0, metavar="N", help="draws the input views of MultiShapeNet (default: 0)")
    add("--chunk", type=positive, metavar="N", help="rays that are decoded at a time (default: as suits the device)")
    add("--no_cuda", action="store_true", help="render on the CPU")
    add("--bf16", action="store_true", help="mixed precision with bfloat16")
    add("--as_original", action="store_true", help="never fade the zoom")
    what = "accepted, without effect, as in the original"
    add("--sharpen", action="store_true", help=what)
    add("--parallel", action="store_true", help=what)
    arguments = parser.parse(words)
    if arguments.sceneid_stop is not None:
        if arguments.sceneid_start is None:
            parser.error("--sceneid_stop: say --sceneid_start, too")
        if arguments.sceneid_stop <= arguments.sceneid_start:
            parser.error(f"--sceneid_stop: expected more than --sceneid_start, found {arguments.sceneid_stop}")
    return arguments


def json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected JSON, found {text!r} ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'expected a JSON object such as {{"num_coarse_samples": 64}}, found {text!r}')
    return value


def scene_numbers(arguments: Namespace) -> range:
    """The scenes that the command line asks for."""
    first = arguments.sceneid if arguments.sceneid_start is None else arguments.sceneid_start
    return range(first, first + 1 if arguments.sceneid_stop is None else arguments.sceneid_stop)


def render(arguments: Namespace) -> int:
    """Render as the command line says; the exit code."""
    import torch

    from core.provenance import Provenance, file_hash
    from core.training.checkpoint import CheckpointError, load, load_weights
    from core.training.signals import STOPPED_EXIT_CODE
    from osrt.camera_paths import motion_named
    from osrt.checkpoints import LAST, config_of
    from osrt.compile_video import write_plot_video
    from osrt.config import load_config
    from osrt.data import open_split
    from osrt.models import build_model
    from osrt.models.light_field import check_options
    from osrt.original import weights_of
    from osrt.rendering import Renderer, RenderFolder, Shot, differences_in_rendering, read_scene

    motion_named(arguments.motion)
    try:
        check_options(arguments.render_kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--render_kwargs: {error}") from error
    config = load_config(arguments.config, arguments.set)
    run_folder = arguments.config.parent
    weight = run_folder / (LAST if arguments.it is None else f"model_{arguments.it}.pt")
    if not weight.is_file():
        raise CheckpointError(f"{weight}: no such checkpoint. Train first: python osrt/train.py {arguments.config}")
    state = load(weight)
    if trained := config_of(state, weight):
        written, config = config, load_config(arguments.config, arguments.set, trained)
        if differences := differences_in_rendering(written, config):
            print(f"{weight}: rendering as it was trained, not as configured:\n  " + "\n  ".join(differences))
    split = "train" if arguments.train else "val"
    source = open_split(config.data, split)
    model_arguments = config.model_arguments(source.render_range)
    distances = dict(zip(("min_dist", "max_dist"), source.render_range))
    model_arguments["render_kwargs"] |= arguments.render_kwargs | distances
    for name in distances.keys() & arguments.render_kwargs.keys():
        print(f"--render_kwargs: {name} has no effect, the data set has its own: {distances[name]}", file=sys.stderr)
    model = build_model(**model_arguments)
    load_weights(model, weights_of(state, weight), weight)
    device = torch.device("cuda" if torch.cuda.is_available() and not arguments.no_cuda else "cpu")
    size = (arguments.height, arguments.width)
    shot = Shot(arguments.motion, arguments.num_frames, *size, arguments.fade, arguments.as_original)
    renderer = Renderer(model.to(device).eval(), shot, distances["max_dist"], device, arguments.chunk, arguments.bf16)
    decisive = {
        "weight": weight.name,
        "weight_sha256": file_hash(weight),
        "model": model_arguments,
        "data": [config.data.dataset, str(config.data.folder), config.data.kwargs, split, arguments.seed],
        "shot": vars(shot),
        "bf16": arguments.bf16,
    }
    for sceneid in scene_numbers(arguments):
        sample = read_scene(source, sceneid, arguments.seed)
        folder = run_folder / "render" / (arguments.name or arguments.motion) / str(sceneid)
        with RenderFolder(folder, Provenance(decisive)) as render_folder:
            if not renderer.render(sample, render_folder, f"scene {sceneid}"):
                return STOPPED_EXIT_CODE
            if not arguments.novideo:
                print(write_plot_video(folder, arguments.num_frames, gif=arguments.gif))
    return 0


def main(words: Sequence[str]) -> int:
    """Render as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: render(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
