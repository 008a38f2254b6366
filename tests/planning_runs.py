"""Small trainings of PHYRE's classifier and plans with it, with roll-outs and weights that the test makes up."""

import json
from pathlib import Path

import numpy as np
import torch

from core.data.slot_writer import save_array
from core.training.checkpoint import save
from slotformer import base_slots, phyre_planning
from slotformer.framework.params import BaseParams, load_params, parse_overrides
from slotformer.phyre_planning.data import DATASET
from slotformer.phyre_planning.planner import Planner
from slotformer.video_prediction import build_model as build_slotformer
from tests import dynamics_runs, slotformer_runs
from tests.conftest import ROOT
from tests.dynamics_runs import small_params as dynamics_params

CONFIG = ROOT / "slotformer" / "phyre_planning" / "configs" / "readout_phyre_params-fold0.py"
SAVI, SLOTFORMER = "savi_phyre_params-fold0", "slotformer_phyre_params-fold0"
SCRIPT = "slotformer/phyre_planning/test_phyre_planning.py"
PHYRE = ("num_actions=8", "num_tasks=2", "data_ratio=0.5", "pos_ratio=0.5")
MODEL = tuple(
    f"readout_dict.{setting}" for setting in ("num_slots=3", "d_model=16", "num_layers=2", "num_heads=2", "ffn_dim=32")
)
RUN = ("train_batch_size=2", "val_batch_size=3", "n_samples=1", "print_iter=1", "eval_interval=1", "num_workers=0")
SMALL = ("slot_size=16", "dropout=0.0", "video_len=5", *MODEL, *PHYRE, *RUN)
SMALL_SAVI = (*slotformer_runs.SMALL[SAVI], "num_slots=3", "dropout=0.0")
SMALL_SLOTFORMER = (*dynamics_runs.SLOTS, *dynamics_runs.SMALL[SLOTFORMER])
CANDIDATES = ("num_actions=40", "num_tasks=6")
"""Of them 14 solve a task, and two tasks are solved by none."""


def small_params(*settings: str) -> BaseParams:
    return load_params(CONFIG, phyre_planning.Keys, parse_overrides([*SMALL, *settings]))


def savi_params() -> BaseParams:
    file = slotformer_runs.CONFIGS / f"{SAVI}.py"
    return load_params(file, base_slots.Keys, parse_overrides(list(SMALL_SAVI)))


def write_rollouts(folder: Path, *settings: str, num_frames: int = 5) -> str:
    """Made-up roll-outs of all trials, in which the first frame tells what is solved; the setting that names them."""
    params, rng = small_params(*settings), np.random.default_rng(0)
    for split in ("train", "val"):
        labels = labels_of(split, *settings)
        shape = (num_frames, params.readout_dict["num_slots"], params.slot_size)
        for trial, label in enumerate(labels):
            slots = rng.standard_normal(shape, dtype=np.float32)
            slots[0, :, 0] = 3 * label - 1.5
            save_array(folder / f"{split}_slots" / f"{trial:06d}.npy", slots)
    return f"slot_root={folder}/{{}}_slots"


def labels_of(split: str, *settings: str) -> list[int]:
    from core.data.phyre_trials import choose_trials

    params = small_params(*settings)
    assert params.dataset == DATASET
    ratios = (params.data_ratio, params.pos_ratio)
    _, (_, labels) = choose_trials(split, "within", params.phyre_fold, *ratios, params.num_actions, params.num_tasks)
    return labels.tolist()


def train_words(name: str, folder: Path, *flags: object, settings: tuple = (), epochs: int = 1) -> list:
    """The documents' command for the fixture `run`; `folder` has the roll-outs that `write_rollouts` writes."""
    named = folder / "rollouts.txt"
    if not named.exists():
        named.write_text(write_rollouts(folder / "rollouts"))
    words = ("slotformer/scripts/train.py", "--task", "phyre_planning", "--params", CONFIG, "--name", name, *flags)
    return [*words, "--set", *SMALL, named.read_text(), f"max_epochs={epochs}", *settings]


def untrained_planner(as_original: bool = False) -> Planner:
    torch.manual_seed(0)
    models = [
        base_slots.build_model(savi_params()),
        build_slotformer(dynamics_params(SLOTFORMER)),
        phyre_planning.build_model(small_params()),
    ]
    with torch.no_grad():
        for value in models[2].parameters():
            value.add_(0.3 * torch.randn(value.shape))  # else the answers of all actions are much the same
    return Planner(*models, as_original).eval()


def plan_words(folder: Path, *flags: object, settings: tuple = ()) -> list:
    """The documents' command with untrained models, whose weights are put into `folder`."""
    planner = untrained_planner()
    models = {"": planner.slotformer, "task_cls_": planner.classifier, "savi_": planner.savi}
    configs = (dynamics_runs.CONFIGS / f"{SLOTFORMER}.py", CONFIG, slotformer_runs.CONFIGS / f"{SAVI}.py")
    small = ((*SMALL_SLOTFORMER, *CANDIDATES, "gpus=2", *settings), SMALL, SMALL_SAVI)
    words: list = [SCRIPT]
    for (prefix, model), config, own in zip(models.items(), configs, small):
        weight = folder / f"{prefix}weights" / "model.pth"
        if not weight.exists():
            weight.parent.mkdir(parents=True)
            save(weight, {"model": model.state_dict()})
        words += [f"--{prefix}params", config, f"--{prefix}weight", weight, f"--{prefix}set", *own]
    return [*words, "--bs", 32, "--cpus", 0, *flags]


def read_report(folder: Path, name: str = "auccess.json") -> dict:
    return json.loads((folder / name).read_text())
