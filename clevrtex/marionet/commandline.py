"""The flags of MarioNette's own commands; nothing here imports torch, so that a misspelt one is answered at once."""

import argparse
from collections.abc import Sequence

from core.commandline import StrictParser, natural, positive

REFUSED = {
    "shuffle_all": "the original stops with an error, and no paper says what it should do",
    "no_layernorm": "the original stops with an error; codes are always normalised",
    "spatial_transformer_bg": "the original stops with an error; backgrounds are never shifted",
    "crop": "had no effect; --data 'clevrtex:full-crop-(128,128)' crops pictures",
    "sprites": "had no effect; --data names the data set",
    "config": "had no effect; the flags are kept in run.json",
    "init_from": "had no effect; start from weights with --load_model and --load_bg",
    "server": "had no effect; scalars and pictures go to TensorBoard, and no Visdom is asked",
    "base_url": "had no effect; no Visdom is asked",
    "env": "had no effect; no Visdom is asked",
    "port": "had no effect; no Visdom is asked",
}
"""Flags of the original that crash or do nothing, and what to do instead."""


_NUMBERS = (
    ("layer_size", positive, 8, "cells of a layer along each axis"),
    ("num_layers", positive, 2, "layers of cells"),
    ("num_classes", positive, 150, "sprites in the dictionary"),
    ("canvas_size", positive, 128, "side of the pictures"),
    ("dim_z", positive, 128, "length of a code of patches, a multiple of 8 and at least 16"),
    ("dim_bg", positive, 16, "length of a code of backgrounds, likewise; the original's 4 cannot be built"),
    ("background", natural, 1, "learned backgrounds; 0: --background_color everywhere"),
    ("w_beta", float, 0.002, "weight of the penalty on undecided choices"),
    ("lr", float, 1e-4, "learning rate"),
    ("lr_bg", float, 1e-3, "learning rate of the dictionary of backgrounds"),
    ("bs", positive, 8, "pictures per step, on all devices together"),
    ("num_steps", positive, 200_000, "optimiser steps, rounded to whole epochs"),
    ("num_epochs", positive, None, "epochs, in place of --num_steps"),
    ("seed", natural, 2, "of weights, noise and the order of the data"),
    ("num_worker_threads", natural, 4, "processes that read data"),
    ("gpus", natural, 0, "devices, or processes on the CPU, that share a batch; 0 and 1: one"),
    ("checkpoint_every", positive, 1000, "steps between checkpoints within an epoch"),
)
_TEXTS = (
    ("checkpoint_dir", "DIR", "folder of the run (default: output/<data>/marionet/<tag>, numbered)"),
    ("data_root", "DIR", "folder of the data (default: ./ool_data, ./data)"),
    ("val_data", "SPEC", "data string of the validation (default: that of --data)"),
    ("load_model", "FILE", "weights to start from, a model/*.pth, ours or the original's"),
    ("load_bg", "FILE", "dictionary of backgrounds to start from, a bg/*.pth, ours or the original's"),
)
_SWITCHES = (
    ("straight_through_probs", "round presence in training, with the gradient of the identity"),
    ("no_spatial_transformer", "shift patches by whole pixels"),
    ("debug", "let autograd name the operation that first gave NaN; slow"),
)


def training_arguments(module: str, description: str, words: Sequence[str]) -> argparse.Namespace:
    """The command line of a training. Ends the process if it cannot be understood."""
    parser = StrictParser(f"-m {module}", description)
    parser.add_argument("--data", required=True, metavar="SPEC", help="data string, as in clevrtex:full-crop-(128,128)")
    parser.add_argument("--tag", default="test", help="name of the run, if there is no --checkpoint_dir")
    for flag, metavar, what in _TEXTS:
        parser.add_argument(f"--{flag}", metavar=metavar, help=what)
    for flag, kind, default, what in _NUMBERS:
        shown = what if default is None else f"{what} (default: {default})"
        parser.add_argument(f"--{flag}", type=kind, default=default, metavar="X" if kind is float else "N", help=shown)
    what = "weight of the penalty on presence; one, or one per layer (default: 0.005)"
    parser.add_argument("--w_probs", type=float, nargs="+", default=[5e-3], metavar="X", help=what)
    what = "constant background, red, green and blue from 0 to 1 (default: black)"
    parser.add_argument("--background_color", type=float, nargs=3, default=[0.0, 0.0, 0.0], metavar="X", help=what)
    for flag, what in _SWITCHES:
        parser.add_argument(f"--{flag}", action="store_true", help=what)
    parser.add_argument("--cuda", action="store_true", default=None, help="use GPUs (default: if there are any)")
    parser.add_argument("--no_cuda", action="store_false", dest="cuda", help="stay on the CPU")
    for flag, why in REFUSED.items():
        parser.refuse(flag, why)
    return parser.parse(words)
