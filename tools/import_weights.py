"""Make a run of this project from a checkpoint of one of the five original code bases.

    python tools/import_weights.py model_40.pth --paper slotformer \\
        --config slotformer/base_slots/configs/savi_obj3d_params.py --out runs/imported/savi

What --config is depends on the paper: a params file (slotformer, slotdiffusion), a JSON file (emorl), the name of an
experiment such as slota (clevrtex), a YAML file (osrt). The folder that comes out opens in tools/evaluate.py and
tools/predict.py, and its checkpoint in the paper's own scripts. Nothing in the file is run: it may hold tensors, arrays
and builtin values only. Exit codes: 0 done, 1 error, 2 misuse.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.commandline import StrictParser
from core.outcome import exit_code_of

PAPERS = {
    "clevrtex": "the name of its experiment, such as slota",
    "emorl": "a JSON file, such as emorl/configs/train/tetrominoes/EMORL.json",
    "osrt": "a YAML file, such as osrt/runs/clevr3d/osrt/config.yaml",
    "slotdiffusion": "a params file, such as slotdiffusion/video_based/configs/savi/savi_movid_params-res128.py",
    "slotformer": "a params file, such as slotformer/base_slots/configs/savi_obj3d_params.py",
}
"""What --config is."""
ONLY_IN = {
    "slotdiffusion": ("dm_decoder.", "quantize.", "model.diffusion_model.", "encoder.dino."),
    "slotformer": ("kernel_dist_layer.", "prior_slot_layer.", "transformer_model.", "comb_idx"),
}
"""Beginnings of names that tell the two papers apart that share a trainer."""


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser("tools/import_weights.py", __doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="file that the original code wrote")
    parser.add_argument("--paper", required=True, choices=PAPERS, help="whose code wrote it")
    parser.add_argument("--config", metavar="CONFIG", help="the configuration that it was trained with; see above")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    what = "what the training's command line said otherwise: a key of the configuration, or a flag of the experiment"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=what)
    arguments = parser.parse(words)
    if not arguments.config:
        parser.error(f"--config is missing: for {arguments.paper} it is {PAPERS[arguments.paper]}")
    return arguments


def papers_of(checkpoint: Mapping[str, Any]) -> list[str]:
    """The papers that a checkpoint of an original code base may be of; none for one that looks like no such file."""
    import clevrtex.original.runs
    import emorl.original
    import osrt.original
    import slotformer.original

    if osrt.original.is_original(checkpoint):
        return ["osrt"]
    if emorl.original.is_original(checkpoint):
        return ["emorl"]
    if clevrtex.original.runs.is_original(checkpoint):
        return ["clevrtex"]
    if not slotformer.original.is_original(checkpoint):
        return []
    names = [str(name).removeprefix("module.") for name in checkpoint.get("state_dict", checkpoint)]
    told = [paper for paper, beginnings in ONLY_IN.items() if any(name.startswith(beginnings) for name in names)]
    return told or ["slotformer", "slotdiffusion"]


def import_weights(arguments: Namespace) -> int:
    """Import as the command line says; the exit code."""
    import importlib

    from clevrtex.original import read
    from core.training.checkpoint import CheckpointError

    path, paper = arguments.checkpoint, arguments.paper
    checkpoint = read(path)
    if "run" in checkpoint:
        raise CheckpointError(f"{path}: a checkpoint of this project already; every tool opens it as it is")
    papers = papers_of(checkpoint)
    if paper not in papers:
        looks = f"it looks like one of {' or '.join(papers)}" if papers else "it looks like none of the five papers'"
        raise CheckpointError(f"{path}: no checkpoint of --paper {paper}: {looks}")
    module = importlib.import_module("clevrtex.original.runs" if paper == "clevrtex" else f"{paper}.original")
    imported = module.import_run(checkpoint, path, arguments.config, arguments.set)
    record = imported.write(arguments.out, path)
    for note in imported.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{path}\n  sha256 {record.source['sha256']}")
    count = sum(value.numel() for value in imported.state["model"].values())
    computes = "; computes as the original does, mistakes included" if imported.as_original else ""
    print(f"{arguments.out / imported.file}: {record.paper}, {count:,} numbers{computes}")
    return 0


def main(words: Sequence[str]) -> int:
    """Import as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: import_weights(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
