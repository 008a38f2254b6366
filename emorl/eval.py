#!/usr/bin/env python3
"""Evaluate a trained EfficientMORL or Slot Attention.

    python emorl/eval.py with emorl/configs/test/tetrominoes/ARI_MSE_KL/EMORL.json dataset.data_path=data/tetrominoes \\
        test.out_dir=runs/emorl test.checkpoint=my-run-state-200000.pth

The checkpoint lies in `<out_dir>/weights` (or is a path); ours and the original code's are read. Results go to
`<out_dir>/results/<experiment_name>/<checkpoint>-seed=<seed>/`.
"""

import difflib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sacred import SETTINGS, Experiment
from torch import Tensor, nn

from core.nn.noise import seeded_noise
from core.training.checkpoint import CheckpointError, load, load_weights
from emorl.evals import ari_mse_kl, clevrtex, disentanglement, latents, sample_viz
from emorl.evals.task import Task
from emorl.models import EfficientMORL, build_model
from emorl.original import from_original, is_original
from emorl.settings import (
    USER_ERRORS,
    UserError,
    arguments_of_model,
    check,
    defaults,
    find_checkpoint,
    open_data,
    run_commandline,
)

SETTINGS.CAPTURE_MODE = "no"
experiment = Experiment("EfficientMORL evaluation", save_git_info=False)
experiment.add_config(defaults("test"))
experiment.logger = logging.getLogger("emorl.eval")
experiment.logger.setLevel(logging.ERROR)  # nothing observes an evaluation: its files say everything


@experiment.main
def evaluate(test: dict, Net: dict, dataset: dict, texdataset: dict, _config: dict) -> str:
    """Evaluate as configured; the folder of the results."""
    check(_config, "test")
    try:
        return str(run(_config))
    except OSError as error:
        raise UserError(f"{error.filename or test['out_dir'] or '.'}: {error.strerror or error}") from error
    except USER_ERRORS as error:
        raise UserError(str(error)) from error


def run(config: dict[str, Any]) -> Path:
    """Load the model, run the evaluation of `test.eval_type`, and return the folder of the results."""
    test = config["test"]
    _check_wishes(config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("evaluation runs as one process: start it with NUM_GPUS=1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = _checkpoint_path(test)
    model = load_for_evaluation(config, path).to(device).eval()
    describe = {name: test[name] for name in ("model", "eval_type", "as_original")}
    describe |= {"checkpoint": str(path), "seed": config["seed"]}
    if isinstance(model, EfficientMORL):
        describe["refinement_iters"] = model.refinement_iters
    print(f"loaded {path}")
    folder = Path(test["out_dir"] or ".") / "results" / test["experiment_name"] / f"{path.name}-seed={config['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"results in {folder}")
    task = Task(
        model=model,
        source=open_data(config, "test"),
        folder=folder,
        device=device,
        noise=seeded_noise(config["seed"], device),
        seed=config["seed"],
        num_images=test["num_images_to_process"],
        range_images=test["range_images"],
        batch_size=test["batch_size"],
        slot=test["disentangle_slot"],
        as_original=test["as_original"],
        describe=describe,
    )
    EVALUATIONS[test["eval_type"]].run(task)
    return folder


def _checkpoint_path(test: dict[str, Any]) -> Path:
    weights = Path(test["out_dir"] or ".") / "weights"
    if test["checkpoint"]:
        return find_checkpoint(weights, test["checkpoint"])
    files = sorted(weights.glob("*-state-*.pth"), key=lambda path: path.stat().st_mtime)
    found = f"{weights} holds {', '.join(path.name for path in files[-5:])}" if files else f"{weights} holds none"
    raise CheckpointError(f"test.checkpoint is not set: give the file name of a checkpoint. {found}")


def load_for_evaluation(config: dict[str, Any], path: Path) -> nn.Module:
    """The configured model with the weights of `path`, of ours or of the original code."""
    state = load(path)
    described = arguments_of_model(config, "test")
    trained = (state.get("run") or {}).get("arguments", {}).get("arguments", {})
    weight = described["arguments"].get("kl_weight")
    if weight is not None and trained.get("kl_weight", weight) != weight:
        # The refinement depends on it, and no key of `test` sets it.
        described["arguments"]["kl_weight"] = trained["kl_weight"]
        print(f"note: evaluated with kl_weight={trained['kl_weight']}, as it was trained")
    model = build_model(**described)
    weights = state.get("model", state)
    if not (isinstance(weights, dict) and weights and all(isinstance(value, Tensor) for value in weights.values())):
        raise CheckpointError(f"{path}: holds no weights of a model")
    wanted = model.state_dict()
    if is_original(state):  # which stores GECO's state in every case
        weights = {key: value for key, value in from_original(weights).items() if key in wanted or "geco." not in key}
    differing = wanted.keys() ^ weights.keys()
    if differing and all(key.startswith("geco.") for key in differing):
        with_geco = "geco.beta" in weights
        raise CheckpointError(
            f"{path}: was trained {'with' if with_geco else 'without'} GECO, whose weight the refinement depends on. "
            f"Set test.use_geco={with_geco}"
        )
    load_weights(model, weights, path)
    _note_differences(trained, described["arguments"])
    return model


def _note_differences(trained: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Say what was otherwise in training, where it changes results without changing the weights' shapes."""
    for name in ("num_slots", "num_layers", "refinement_iters", "log_std", "likelihood", "prior"):
        if name in trained and trained[name] != arguments.get(name):
            print(f"note: trained with {name}={trained[name]}, evaluated with {arguments.get(name)}")


@dataclass(frozen=True)
class Evaluation:
    """What `test.eval_type` stands for."""

    run: Callable[[Task], Any]
    masks: bool = False
    """Needs true masks (dataset.masks=True)"""
    factors: bool = False
    """and true factors (dataset.factors=True)."""


EVALUATIONS = {
    "ARI_MSE_KL": Evaluation(ari_mse_kl.evaluate, masks=True),
    "clevrtex": Evaluation(clevrtex.evaluate, masks=True),
    "dci": Evaluation(disentanglement.evaluate, masks=True, factors=True),
    "dci_clevr": Evaluation(disentanglement.evaluate, masks=True, factors=True),
    "disentanglement_preprocessing": Evaluation(latents.preprocess),
    "activeness": Evaluation(latents.report_activeness),
    "disentanglement_viz": Evaluation(latents.traverse_slot),
    "make_gifs": Evaluation(latents.make_gifs),
    "sample_viz": Evaluation(sample_viz.export, masks=True),
}


def _check_wishes(config: dict[str, Any]) -> None:
    """Raise UserError for an evaluation that does not exist, or that the configuration gives too little."""
    test = config["test"]
    name = test["eval_type"]
    if name not in EVALUATIONS:
        near = difflib.get_close_matches(name, EVALUATIONS, n=1, cutoff=0.4)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise UserError(f"test.eval_type={name!r} is not one of {', '.join(map(repr, EVALUATIONS))}{hint}")
    wanted = EVALUATIONS[name]
    if wanted.masks and not config["dataset"]["masks"]:
        raise UserError(f"test.eval_type={name!r} compares with true masks: set dataset.masks=True")
    if wanted.factors and config["texdataset"]["path"]:
        raise UserError(f"test.eval_type={name!r} compares with true factors, which ClevrTex has not: use an .h5 file")
    if wanted.factors and not config["dataset"]["factors"]:
        raise UserError(f"test.eval_type={name!r} compares with true factors: set dataset.factors=True")
    if not 0 <= test["disentangle_slot"] < config["Net"]["K"]:
        raise UserError(
            f"test.disentangle_slot={test['disentangle_slot']}: with Net.K={config['Net']['K']} there are slots 0 to "
            f"{config['Net']['K'] - 1}"
        )
    if test["experiment_name"] == "NAME_HERE":
        raise UserError("test.experiment_name is not set: it names the folder of the results")


if __name__ == "__main__":
    run_commandline(experiment, sys.argv, "test")
