"""Which checkpoint a training goes on from, and whether it may."""

import re
from pathlib import Path
from typing import Any

from core.training.checkpoint import CheckpointError, CheckpointFolder, State, config_differences, load, load_weights
from core.training.launch import is_main_process
from core.training.trainer import Trainer
from emorl.original import adam_from_original, from_original, is_original
from emorl.settings import defaults, find_checkpoint

# A run may continue under another value of these; anything else would make it another run.
FREE_TO_CHANGE = {
    "training": [
        "DDP_port",
        "num_workers",
        "iters",
        "tensorboard_freq",
        "checkpoint_freq",
        "load_from_checkpoint",
        "checkpoint",
        "out_dir",
        "tqdm",
        "keep_checkpoints",
        "precision",
        "compile",
        "resident",
        "images_per_chunk",
        "wandb_project",
        "batch_size",
    ],
    "dataset": ["data_path", "masks", "factors"],
}


def is_record_of(name: str, tb_name: str) -> bool:
    """Whether it is the folder of this run's curves; a run that starts from another's checkpoint leaves those alone."""
    return re.fullmatch(re.escape(name) + r"_\d{4}-\d\d-\d\d--\d\d-\d\d-\d\d", tb_name) is not None


def checkpoint_to_resume(
    training: dict[str, Any], checkpoints: CheckpointFolder
) -> tuple[tuple[Path, State] | None, str | None]:
    """The newest readable checkpoint of this run, or that which was asked for; and the one that it branched from.

    A run that was asked to begin with a checkpoint goes on from its own as soon as it has one.
    """
    found = checkpoints.newest()
    if training["load_from_checkpoint"]:
        if not training["checkpoint"]:
            raise ValueError("training.load_from_checkpoint=True needs training.checkpoint=FILE (in <out_dir>/weights)")
        path = find_checkpoint(checkpoints.folder, training["checkpoint"])
        origin = path.name if path.parent == checkpoints.folder else str(path.resolve())
        if found and found[1].get("branched_from") == origin:
            return found, origin
        state = load(path)
        if not ({"step", "model", "optimizer"} <= state.keys() or {"step", "model", "model_opt"} <= state.keys()):
            raise CheckpointError(f"{path}: holds no state of a training (step, model, optimizer)")
        if found and found[1]["step"] > state["step"]:
            raise CheckpointError(
                f"{path}: this run has gone beyond step {state['step']}, to {found[0].name}, and not from this file. "
                "Set training.run_suffix to another name to begin a run with it"
            )
        return (path, state), origin
    if found is None and checkpoints.steps():
        raise CheckpointError(
            f"{checkpoints.folder}: none of the checkpoints {checkpoints.prefix}* can be read. Move them away to start "
            "afresh"
        )
    return found, found[1].get("branched_from") if found else None


def identity_of(config: dict[str, Any], global_batch: int) -> dict[str, Any]:
    """The part of a configuration that makes it this run."""
    kept = plain({key: config[key] for key in ("seed", "Net", "dataset", "training")})
    for section, names in FREE_TO_CHANGE.items():
        for name in names:
            kept[section].pop(name)
    return kept | {"global_batch_size": global_batch}


def plain(value: Any) -> Any:
    """Builtin containers in place of sacred's read-only ones."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def check_same_run(found: tuple[Path, State], identity: dict[str, Any], asked_for: bool) -> None:
    """A run does not continue by itself under another configuration; from a checkpoint that was asked for it may."""
    saved = dict(found[1]["identity"])
    for section, known in defaults("training").items():
        if isinstance(known, dict) and section in saved:
            # A key that did not exist yet when the checkpoint was written had, in effect, its default.
            new = identity[section].keys() - saved[section].keys()
            saved[section] = {**saved[section], **{key: plain(known[key]) for key in new}}
    differences = config_differences(saved, identity)
    if not differences:
        return
    message = f"{found[0]} was made with another configuration:\n  " + "\n  ".join(differences)
    if not asked_for:
        raise CheckpointError(
            f"{message}\nUse that configuration to continue it, another training.run_suffix to start afresh, "
            f"or training.load_from_checkpoint=True training.checkpoint={found[0].name} to continue with the changes"
        )
    if is_main_process():
        print(f"note: {message}")


def resume(trainer: Trainer, path: Path, state: State) -> None:
    """Continue from a checkpoint of ours or of the original code."""
    if not is_original(state):
        trainer.resume(state, path)
        return
    model = trainer.model
    weights = from_original(state["model"])
    if getattr(model, "geco", None) is None:
        weights = {key: value for key, value in weights.items() if not key.startswith("geco.")}
    load_weights(model, weights, path)
    names = [name for name, _ in model.named_parameters()]
    try:
        adam = adam_from_original(state["model"], state["model_opt"], names)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}, so no training continues from it") from error
    adam["param_groups"] = [{**trainer.optimizer.state_dict()["param_groups"][0]}]
    trainer.optimizer.load_state_dict(adam)
    trainer.first_step = state["step"] + 1
