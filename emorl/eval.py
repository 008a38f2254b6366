#!/usr/bin/env python3
"""Evaluate a trained EfficientMORL or Slot Attention.

    python emorl/eval.py with emorl/configs/test/tetrominoes/ARI_MSE_KL/EMORL.json dataset.data_path=data/tetrominoes \\
        test.out_dir=runs/emorl test.checkpoint=my-run-state-200000.pth

The checkpoint lies in `<out_dir>/weights` (or is a path); ours and the original code's are read. Results go to
`<out_dir>/results/<experiment_name>/<checkpoint>-seed=<seed>/`.
"""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sacred import SETTINGS, Experiment
from torch import Tensor, nn

from core.training.checkpoint import CheckpointError, load, load_weights
from emorl.evals import ari_mse_kl
from emorl.models import build_model
from emorl.original import from_original, is_original
from emorl.settings import USER_ERRORS, UserError, arguments_of_model, check, defaults, open_data, run_commandline

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
    if test["eval_type"] not in EVALUATIONS:
        raise UserError(f"test.eval_type={test['eval_type']!r} is not one of {', '.join(map(repr, EVALUATIONS))}")
    if test["experiment_name"] == "NAME_HERE":
        raise UserError("test.experiment_name is not set: it names the folder of the results")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("evaluation runs as one process: start it with NUM_GPUS=1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = _checkpoint_path(test)
    model = load_for_evaluation(config, path).to(device).eval()
    print(f"loaded {path}")
    folder = Path(test["out_dir"] or ".") / "results" / test["experiment_name"] / f"{path.name}-seed={config['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"results in {folder}")
    EVALUATIONS[test["eval_type"]](config, model, path, folder, device)
    return folder


def _checkpoint_path(test: dict[str, Any]) -> Path:
    weights = Path(test["out_dir"] or ".") / "weights"
    if test["checkpoint"]:
        beside = weights / test["checkpoint"]
        return beside if beside.exists() or not Path(test["checkpoint"]).exists() else Path(test["checkpoint"])
    files = sorted(weights.glob("*-state-*.pth"), key=lambda path: path.stat().st_mtime)
    found = f"{weights} holds {', '.join(path.name for path in files[-5:])}" if files else f"{weights} holds none"
    raise CheckpointError(f"test.checkpoint is not set: give the file name of a checkpoint. {found}")


def load_for_evaluation(config: dict[str, Any], path: Path) -> nn.Module:
    """The configured model with the weights of `path`, of ours or of the original code."""
    state = load(path)
    model = build_model(**arguments_of_model(config, "test"))
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
    return model


def _ari_mse_kl(config: dict[str, Any], model: nn.Module, path: Path, folder: Path, device: torch.device) -> None:
    test = config["test"]
    if not config["dataset"]["masks"] and not config["texdataset"]["path"]:
        raise UserError("test.eval_type='ARI_MSE_KL' compares with true masks: set dataset.masks=True")
    ari_mse_kl.evaluate(
        model,
        open_data(config, "test"),
        folder,
        num_images=test["num_images_to_process"],
        batch_size=test["batch_size"],
        seed=config["seed"],
        device=device,
        describe={"model": test["model"], "checkpoint": str(path), "seed": config["seed"]},
    )


Evaluation = Callable[[dict[str, Any], nn.Module, Path, Path, torch.device], None]
EVALUATIONS: dict[str, Evaluation] = {"ARI_MSE_KL": _ari_mse_kl}


if __name__ == "__main__":
    run_commandline(experiment, sys.argv, "test")
