"""Flags of the scripts that send data through a trained model; no torch here, so that misuse is answered at once."""

import argparse
from pathlib import Path

from core.commandline import StrictParser, positive


def build_parser(script: str, description: str) -> StrictParser:
    """The flags that all of them have."""
    parser = StrictParser(script, description)
    parser.add_argument("--params", required=True, metavar="FILE", help="configuration, with or without .py")
    what = "checkpoint of the model, ours or the original's"
    parser.add_argument("--weight", required=True, type=Path, metavar="FILE", help=what)
    what = "another value for a key of the configuration, as in data_root=DIR; give those of the training, too"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=what)
    parser.add_argument("--bf16", action="store_true", help="mixed precision with bfloat16")
    what = "one process per GPU; without GPUs as many as the configuration's `gpus`"
    parser.add_argument("--ddp", action="store_true", help=what)
    parser.add_argument("--local_rank", type=int, default=0, help="as older launchers pass it; has no effect")
    return parser


def count_or_default(text: str) -> int:
    """A flag's positive number, or -1 for what the script chooses."""
    if text == "-1":
        return -1
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, or -1, found {text!r}") from None
