"""Flags of the scripts that generate videos and pictures; no torch here, so that misuse is answered at once."""

from pathlib import Path

from core.commandline import StrictParser, natural, positive
from slotformer.framework.flags import build_parser, count_or_default

SHOWN_VIDEOS = 100
SOLVERS = ("dpm", "dpm_multistep", "ddim")
"""Samplers that draw nothing but the noise they begin at."""


def build_video_parser(script: str, description: str) -> StrictParser:
    """The flags that all scripts for videos have."""
    parser = _build_parser(script, description)
    what = f"write mp4 files of the first {SHOWN_VIDEOS} videos to vis/ instead"
    parser.add_argument("--save_video", action="store_true", help=what)
    what = "videos at a time per process; changes no result (default: 32 on a GPU, 4 on the CPU)"
    parser.add_argument("--bs", type=positive, metavar="N", help=what)
    return parser


def build_picture_parser(script: str, description: str) -> StrictParser:
    """The flags that all scripts for pictures have."""
    parser = _build_parser(script, description)
    parser.set_defaults(save_video=False)
    what = (
        "pictures at a time per process; -1 takes the configuration's val_batch_size; changes no result (default: -1)"
    )
    parser.add_argument("--bs", type=count_or_default, default=-1, metavar="N", help=what)
    return parser


def _build_parser(script: str, description: str) -> StrictParser:
    parser = build_parser(script, description)
    what = f"what finds a picture for slots: {', '.join(SOLVERS)} (default: dpm, DPM-Solver++ of order 3)"
    parser.add_argument("--solver", choices=SOLVERS, help=what)
    what = (
        "evaluations of the denoiser for a picture (default: 20, as published; ddim 200, with many timesteps a fifth)"
    )
    parser.add_argument("--solver_steps", type=positive, metavar="N", help=what)
    what = "of what is drawn, for each sample by itself (default: 0)"
    parser.add_argument("--seed", type=natural, default=0, help=what)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for what is written (default: the weight's)")
    return parser


def add_mixing_flag(parser: StrictParser) -> None:
    """That of compositional generation."""
    what = "exchange slots as the original does, within batches of --bs: those from that number on stay"
    parser.add_argument("--as_original", action="store_true", help=what)
