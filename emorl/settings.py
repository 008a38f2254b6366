"""The sacred configuration of EfficientMORL: every key with its default, checked at the door."""

import ast
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

from sacred import Experiment
from sacred.run import Run
from sacred.utils import SacredError

from core.data.clevrtex import ClevrTex
from core.data.errors import DataError
from core.data.multi_object_h5 import MultiObjectH5
from core.outcome import ERROR, INTERRUPTED, complain
from core.training.checkpoint import CheckpointError
from core.training.launch import PRECISIONS
from core.training.trainer import NonFiniteLoss
from emorl.models import MODELS, model_arguments

NET = {
    "input_size": [3, 64, 64],
    "z_size": 64,
    "K": 4,
    "stochastic_layers": 3,
    "refinement_iters": 3,
    "log_scale": log(0.1),
    "geco_warm_start": 1000,
    "image_decoder": "iodine",
    "image_likelihood": "Gaussian",
    "use_DualGRU": True,
    "bottom_up_prior": False,
    "reverse_prior_plusplus": True,
    # Beyond the original:
    "small_init": True,  # its very small weights; False: PyTorch's, which learn sooner
}
DATASET = {"data_path": "", "h5_path": "", "masks": False, "factors": False, "clevr_preprocess_style": ""}
TEXDATASET = {"path": ""}

TRAINING = {
    "DDP_port": 29500,
    "batch_size": 16,  # per process
    "num_workers": 8,
    "mode": "train",
    "model": "EfficientMORL",
    "iters": 500000,
    "refinement_curriculum": [(-1, 3), (100000, 1), (200000, 1)],
    "lr": 3e-4,
    "warmup": 10000,
    "decay_rate": 0.5,
    "decay_steps": 100000,
    "kl_beta_init": 1.0,
    "use_scheduler": False,
    "tensorboard_freq": 100,
    "checkpoint_freq": 25000,
    "load_from_checkpoint": False,
    "checkpoint": "",
    "run_suffix": "debug",
    "out_dir": "experiments",
    "use_geco": True,
    "clip_grad_norm": True,
    "geco_reconstruction_target": -23000.0,  # nats per pixel and channel
    "geco_step_size_acceleration": 1.0,
    "geco_ema_alpha": 0.99,
    "geco_beta_stepsize": 1e-6,
    "tqdm": False,
    # Beyond the original:
    "keep_checkpoints": 0,  # how many of the newest stay; 0 for all
    "precision": "fp32",  # or fp32-fast, bf16, fp16
    "compile": False,  # encoder and decoder through torch.compile
    "resident": False,  # the whole data set on the device
    "images_per_chunk": 0,  # decoded at a time; 0 chooses
    "wandb_project": "",
}
TEST = {
    "batch_size": 1,
    "output_size": [3, 64, 64],
    "mode": "test",
    "num_images_to_process": 320,
    "eval_type": "",
    "disentangle_slot": 0,
    "model": "EfficientMORL",
    "num_workers": 8,
    "DDP_port": 29500,
    "out_dir": "",
    "checkpoint": "",
    "use_geco": False,
    "geco_reconstruction_target": -20500.0,
    "geco_ema_alpha": 0.99,
    "geco_step_size_acceleration": 1.0,
    "geco_beta_stepsize": 1e-6,
    "experiment_name": "NAME_HERE",
    "clevrtex_variant": "full",
    # Beyond the original:
    "range_images": 100,  # on which ranges of latents and activeness are measured
    "as_original": False,  # its traversal ranges and its DCI, mistakes included
}
CHOICES = {
    "Net.image_decoder": ("iodine", "small", "big"),
    "Net.image_likelihood": ("Gaussian", "GMM"),
    "training.model": tuple(MODELS),
    "test.model": tuple(MODELS),
    "training.precision": tuple(PRECISIONS),
}
AT_LEAST = {
    "Net.z_size": 1,
    "Net.K": 1,
    "Net.stochastic_layers": 1,
    "Net.refinement_iters": 0,
    "training.batch_size": 1,
    "training.num_workers": 0,
    "training.iters": 0,
    "training.warmup": 0,
    "training.decay_steps": 1,
    "training.tensorboard_freq": 1,
    "training.checkpoint_freq": 1,
    "training.keep_checkpoints": 0,
    "training.images_per_chunk": 0,
    "test.batch_size": 1,
    "test.num_images_to_process": 1,
    "test.range_images": 1,
}
SEEDS = 2**32
"""How many sacred takes."""


class UserError(SacredError):
    """Something the user can put right: printed without a traceback, exit code 1."""

    def __init__(self, message: str):
        super().__init__(message, print_traceback=False, filter_traceback="never")


USER_ERRORS = (CheckpointError, DataError, NonFiniteLoss, ValueError)


def defaults(section: str) -> dict[str, Any]:
    """The whole default configuration of `train.py` (section 'training') or `eval.py` (section 'test')."""
    own = {"training": TRAINING, "test": TEST}[section]
    return {"seed": 1, "Net": NET, "dataset": DATASET, "texdataset": TEXDATASET, section: own}


def complete(path: Path, section: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration of a JSON file over the defaults, with KEY=VALUE in place of what it says, checked."""
    check_command_line(["with", *overrides], section)
    config = {key: dict(value) if isinstance(value, dict) else value for key, value in defaults(section).items()}
    for key, value in _read_json(path).items():
        config[key] = {**config[key], **value} if isinstance(value, dict) and key in config else value
    for word in overrides:
        key, _, text = word.partition("=")
        *outer, last = key.split(".")
        place = config
        for part in outer:
            place = place[part]
        place[last] = _literal(text)
    check(config, section)
    return config


def _literal(text: str) -> Any:
    """A value of the command line as sacred reads it: a Python literal, or else text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check_command_line(words: list[str], section: str) -> None:
    """Check the files and keys behind `with` before sacred reads them. Raises UserError with the nearest name."""
    known = defaults(section)
    for word in words[words.index("with") + 1 :] if "with" in words else []:
        if word.startswith("-"):
            return
        key, is_override, text = word.partition("=")
        if is_override:
            _check_path(key, known)
            _check_seed({key: _literal(text)})
        else:
            try:
                content = _read_json(Path(word))
                _check_keys(content, known, "")
                _check_seed(content)
            except UserError as error:
                raise UserError(f"{word}: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        beside = ", ".join(sorted(str(other) for other in path.parent.glob("*.json"))) or "no .json file"
        raise UserError(f"no such configuration, and it is no KEY=VALUE; beside it there is {beside}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:  # undecodable text is one, too
        raise UserError(f"not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f'holds a {type(content).__name__}, expected sections of keys as {{"Net": {{"K": 4}}}}')
    return content


def _check_path(key: str, known: Mapping[str, Any]) -> None:
    """One dotted key of the command line."""
    so_far = ""
    for part in key.split("."):
        if not isinstance(known, Mapping):
            raise UserError(f"unknown key {key}: {so_far.removesuffix('.')} has no keys of its own")
        _check_name(part, known, so_far)
        known, so_far = known[part], f"{so_far}{part}."


def _check_name(name: str, known: Mapping[str, Any], prefix: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(sorted(known))}"
        raise UserError(f"unknown key {prefix}{name}: {hint}")


def _check_seed(config: Mapping[str, Any]) -> None:
    """Of a part of a configuration, before sacred seeds with it."""
    seed = config.get("seed", 0)
    if not _is_whole(seed, 0) or seed >= SEEDS:
        raise UserError(f"seed={seed!r}: expected a whole number from 0 to {SEEDS - 1}")


def check(config: Mapping[str, Any], section: str) -> None:
    """Every key must exist, have the type of its default, and a value that can be. Raises UserError."""
    _check_keys(config, defaults(section), "")
    for key, allowed in CHOICES.items():
        group, name = key.split(".")
        if group in config and config[group][name] not in allowed:
            raise UserError(f"{key}={config[group][name]!r} is not one of {', '.join(map(repr, allowed))}")
    for key, least in AT_LEAST.items():
        group, name = key.split(".")
        if group in config and config[group][name] < least:
            raise UserError(f"{key}={config[group][name]!r} must be at least {least}")
    _check_seed(config)
    size = config["Net"]["input_size"]
    if len(size) != 3 or not all(_is_whole(number, 1) for number in size):
        raise UserError(f"Net.input_size={size!r}: expected [3, height, width]")
    if section == "training":
        _check_training(config["training"])


def _check_training(training: Mapping[str, Any]) -> None:
    """What only `train.py` has and no table above can say."""
    for entry in training["refinement_curriculum"]:
        is_pair = isinstance(entry, (list, tuple)) and len(entry) == 2
        if not is_pair or not _is_whole(entry[0]) or not _is_whole(entry[1], 0):
            raise UserError(
                f"training.refinement_curriculum={training['refinement_curriculum']!r}: expected pairs of the step "
                f"from which on and the number of refinements (0 or more), found {entry!r}"
            )
    if "/" in training["run_suffix"]:
        raise UserError(
            f"training.run_suffix={training['run_suffix']!r} is a path, expected a name; use training.out_dir for "
            "folders"
        )


def _is_whole(value: Any, least: int | None = None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def _check_keys(config: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> None:
    for key, value in config.items():
        _check_name(key, known, prefix)
        default = known[key]
        if isinstance(default, Mapping):
            if not isinstance(value, Mapping):
                raise UserError(f"{prefix}{key}={value!r} is a section, set its keys as {prefix}{key}.NAME=VALUE")
            _check_keys(value, default, f"{prefix}{key}.")
        elif not _same_kind(value, default):
            raise UserError(
                f"{prefix}{key}={value!r} is {type(value).__name__}, expected {type(default).__name__} like {default!r}"
            )


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, (list, tuple) if isinstance(default, (list, tuple)) else type(default))


def run_commandline(experiment: Experiment, words: list[str], section: str) -> Run | None:
    """Sacred's command line behind our checks; an error of the user's ends the process with exit code 1."""
    try:
        check_command_line(words, section)
        return experiment.run_commandline(words)
    except UserError as error:
        sys.exit(complain(error, ERROR))
    except KeyboardInterrupt:
        sys.exit(complain("interrupted", INTERRUPTED))


def find_checkpoint(weights: Path, wanted: str) -> Path:
    """The file that `training.checkpoint` or `test.checkpoint` means: a name in the folder `weights`, or a path."""
    beside = weights / wanted
    return beside if beside.exists() or not Path(wanted).exists() else Path(wanted)


def arguments_of_model(config: Mapping[str, Any], section: str) -> dict[str, Any]:
    """`name` and plain `arguments` of the model that a configuration describes."""
    own = config[section]
    geco = {
        "target": own["geco_reconstruction_target"],
        "alpha": own["geco_ema_alpha"],
        "step_size": own["geco_beta_stepsize"],
        "acceleration": own["geco_step_size_acceleration"],
    }
    arguments = model_arguments(
        own["model"],
        dict(config["Net"]),
        geco=geco if own["use_geco"] else None,
        kl_weight=own.get("kl_beta_init", 1),
        refinement_curriculum=[tuple(pair) for pair in own.get("refinement_curriculum", [])],
    )
    return {"name": own["model"], "arguments": arguments}


def open_data(config: Mapping[str, Any], section: str) -> MultiObjectH5 | ClevrTex:
    """The data set of a configuration: ClevrTex where `texdataset.path` is set, else an `.h5` file."""
    own, dataset = config[section], config["dataset"]
    if config["texdataset"]["path"]:
        split = "train" if section == "training" else "test"
        source = ClevrTex(
            config["texdataset"]["path"], own.get("clevrtex_variant", "full"), split, masks=dataset["masks"]
        )
    else:
        if not dataset["h5_path"]:
            raise UserError(
                "no data: set dataset.data_path=FOLDER and dataset.h5_path=FILE.h5, "
                "or texdataset.path=FOLDER for ClevrTex"
            )
        source = MultiObjectH5(
            Path(dataset["data_path"]) / dataset["h5_path"],
            own["mode"],
            style=dataset["clevr_preprocess_style"],
            masks=dataset["masks"],
            factors=dataset["factors"],
        )
    wanted = tuple(config["Net"]["input_size"][1:])
    if source.image_size != wanted:
        raise UserError(
            f"{source.path}: pictures are {source.image_size[0]}x{source.image_size[1]}, Net.input_size asks for "
            f"{wanted[0]}x{wanted[1]}. Set Net.input_size=[3,{source.image_size[0]},{source.image_size[1]}], "
            "or dataset.clevr_preprocess_style for CLEVR"
        )
    return source
