"""Flags of the scripts that generate videos; no torch here, so that misuse is answered at once."""

from pathlib import Path

from core.commandline import StrictParser, natural, positive
from slotformer.framework.flags import build_parser

SHOWN_VIDEOS = 100


def build_generation_parser(script: str, description: str) -> StrictParser:
    """The flags that all of them have."""
    parser = build_parser(script, description)
    what = f"write mp4 files of the first {SHOWN_VIDEOS} videos to vis/ instead"
    parser.add_argument("--save_video", action="store_true", help=what)
    what = "videos at a time per process; changes no result (default: 32 on a GPU, 4 on the CPU)"
    parser.add_argument("--bs", type=positive, metavar="N", help=what)
    what = "of what is drawn, for each video by itself (default: 0)"
    parser.add_argument("--seed", type=natural, default=0, help=what)
    what = "folder for eval/ and vis/ (default: that of the weight)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=what)
    return parser
