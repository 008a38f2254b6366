#!/usr/bin/env python3
"""Train EfficientMORL or its Slot Attention baseline.

    python emorl/train.py with emorl/configs/train/tetrominoes/EMORL.json dataset.data_path=data/tetrominoes \\
        training.out_dir=runs/emorl training.run_suffix=my-run

Any sacred option works; several processes: `torchrun --nproc_per_node=N emorl/train.py with ...`, `accelerate launch
emorl/train.py with ...`, or `python emorl/train.py --processes N with ...`. The same command started again continues
the run. Exit codes: 0 done, 1 error, 75 stopped by SIGTERM or SIGUSR1 after saving.
"""

import logging
import os
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from sacred import SETTINGS, Experiment
from sacred.observers import FileStorageObserver
from sacred.run import Run
from sacred.utils import apply_backspaces_and_linefeeds
from torch import Tensor, nn

from core.data.loader import TrainingLoader
from core.nn.noise import ShardedNoise, derive_seed
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, CheckpointFolder, State, config_differences, load, load_weights
from core.training.launch import end_processes, is_main_process, launch_processes, make_accelerator
from core.training.schedules import constant, warmup_then_decay
from core.training.signals import STOPPED_EXIT_CODE
from core.training.tracking import Tracker
from core.training.trainer import Trainer
from emorl.drawing import draw
from emorl.models import EfficientMORL, build_model
from emorl.original import adam_from_original, from_original, is_original
from emorl.settings import USER_ERRORS, UserError, arguments_of_model, check, defaults, open_data, run_commandline

CLIP_NORM = 5.0
LOG_NAMES = {
    "EfficientMORL": {"loss": "train/total_loss", "nll": "train/NLL", "kl": "train/KL"},
    "SlotAttention": {"loss": "train/MSE"},
    "LocalSlotAttention": {"loss": "train/MSE"},
}
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

SETTINGS.CAPTURE_MODE = "sys"
experiment = Experiment("EfficientMORL training", save_git_info=False)
experiment.add_config(defaults("training"))
experiment.captured_out_filter = apply_backspaces_and_linefeeds


@experiment.main
def train(training: dict, Net: dict, dataset: dict, texdataset: dict, _config: dict, _run: Run) -> str:
    """Train as configured; "finished" or "stopped"."""
    check(_config, "training")
    try:
        return run(_config, _run)
    except OSError as error:
        raise UserError(f"{error.filename or training['out_dir'] or '.'}: {error.strerror or error}") from error
    except USER_ERRORS as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if "closed by peer" not in str(error):  # as gloo puts it
            raise
        raise UserError("another process of this run has failed; its message says why") from error


def run(config: dict[str, Any], sacred_run: Run | None = None) -> str:
    """Train one process of a run from a checked configuration; "finished" or "stopped"."""
    training = config["training"]
    described = arguments_of_model(config, "training")
    torch.manual_seed(config["seed"])
    model = build_model(**described)
    unused = isinstance(model, EfficientMORL) and model.unused_parameters()
    accelerator = make_accelerator(training["precision"], find_unused_parameters=unused)
    model.noise = ShardedNoise(derive_seed(config["seed"], 1), accelerator.process_index, accelerator.num_processes)
    source = open_data(config, "training")
    _warn(config, model, accelerator)

    out_dir = Path(training["out_dir"] or ".")
    name = training["run_suffix"] or f"{training['model']}-seed-{config['seed']}"
    for folder in ("weights", "runs", "tb"):
        (out_dir / folder).mkdir(parents=True, exist_ok=True)
    checkpoints = CheckpointFolder(out_dir / "weights", f"{name}-state-", keep=training["keep_checkpoints"] or None)
    found = _checkpoint_to_resume(training, checkpoints)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        checkpoints.remove_partial_files()

    global_batch = training["batch_size"] * accelerator.num_processes
    identity = _identity(config, global_batch)
    resumed_after, tb_name = None, f"{name}_{datetime.now():%Y-%m-%d--%H-%M-%S}"
    if found:
        resumed_after, tb_name = found[1]["step"], found[1].get("tb_name", tb_name)
        if "identity" in found[1]:
            _check_same_run(found, identity, asked_for=training["load_from_checkpoint"])
    record = RunRecord(
        paper="emorl",
        builder="emorl.models:build_model",
        arguments=described,
        data={**config["dataset"], "texdataset": config["texdataset"]["path"], "mode": training["mode"]},
        seed=config["seed"],
        checkpoints={"folder": ".", "prefix": checkpoints.prefix, "suffix": checkpoints.suffix},
        inputs={"kind": "images", "size": list(source.image_size)},
    )
    tracker = None
    if accelerator.is_main_process:
        record.write(checkpoints.folder / f"{name}.run.json")
        tracker = Tracker(
            out_dir / "tb" / tb_name,
            resumed_after,
            {"project": training["wandb_project"], "name": name} if training["wandb_project"] else None,
            also=_to_sacred(sacred_run),
        )
        print(f"rank 0 of {accelerator.num_processes} on {accelerator.device}, seed {config['seed']}")
        print(f"{model}\n{sum(p.numel() for p in model.parameters()):,} parameters")

    trainer = Trainer(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=training["lr"], fused=True),
        batches=TrainingLoader(
            source,
            training["batch_size"],
            seed=config["seed"],
            device=accelerator.device,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            num_workers=training["num_workers"],
            resident=training["resident"],
        ).batches,
        accelerator=accelerator,
        last_step=training["iters"],
        checkpoints=checkpoints,
        checkpoint_every=training["checkpoint_freq"],
        seed=config["seed"],
        schedule=_schedule(training),
        clip_norm=CLIP_NORM if training["clip_grad_norm"] else None,
        controllers=[lambda step, terms: model.geco.update(terms["nll"], step)] if _has_geco(model) else [],
        hooks=[(training["tensorboard_freq"], lambda step, batch: draw(tracker, step, model, batch["image"][:1]))],
        tracker=tracker,
        log_every=training["tensorboard_freq"],
        scalars_of=partial(_scalars_of, training["model"]),
        extra_scalars=lambda: _extra_scalars(model),
        extra_state={
            "identity": identity,
            "config": _plain(config),
            "kl_beta": training["kl_beta_init"],
            "tb_name": tb_name,
            "run": record.to_dict(),
        },
        show_progress=training["tqdm"],
    )
    if found:
        _resume(trainer, *found)
        if accelerator.is_main_process:
            print(f"continuing {found[0]} after step {found[1]['step']}")
    _apply_speed_settings(model, training)
    finished = trainer.run()
    if tracker:
        tracker.close()
        print(f"{'finished' if finished else 'stopped'}; the weights are in {checkpoints.folder}")
    end_processes(accelerator)
    return "finished" if finished else "stopped"


def _scalars_of(name: str, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {LOG_NAMES[name].get(term, f"train/{term}"): value for term, value in terms.items()}


def _has_geco(model: nn.Module) -> bool:
    return isinstance(model, EfficientMORL) and model.geco is not None


def _schedule(training: dict[str, Any]) -> Callable[[int], float]:
    if not training["use_scheduler"]:
        return constant
    return warmup_then_decay(training["warmup"], training["decay_steps"], training["decay_rate"])


def _warn(config: dict[str, Any], model: nn.Module, accelerator: Accelerator) -> None:
    """Say what the original's configurations do silently."""
    training, net = config["training"], config["Net"]
    if not accelerator.is_main_process:
        return
    if training["use_geco"] and not isinstance(model, EfficientMORL):
        print(f"note: training.use_geco has no effect on {training['model']}")
    if _has_geco(model) and training["geco_reconstruction_target"] < net["log_scale"]:
        print(
            f"note: the GECO target {training['geco_reconstruction_target']} per value lies below the lowest "
            f"reachable nll {net['log_scale']:.4f} (Net.log_scale): the nll's weight grows for ever, as in the original"
        )


def _checkpoint_to_resume(training: dict[str, Any], checkpoints: CheckpointFolder) -> tuple[Path, State] | None:
    """The checkpoint that was asked for, else the newest readable one of this run."""
    if training["load_from_checkpoint"]:
        if not training["checkpoint"]:
            raise ValueError("training.load_from_checkpoint=True needs training.checkpoint=FILE (in <out_dir>/weights)")
        path = checkpoints.folder / training["checkpoint"]
        state = load(path)
        if not ({"step", "model", "optimizer"} <= state.keys() or {"step", "model", "model_opt"} <= state.keys()):
            raise CheckpointError(f"{path}: holds no state of a training (step, model, optimizer)")
        return path, state
    found = checkpoints.newest()
    if found is None and checkpoints.steps():
        raise CheckpointError(
            f"{checkpoints.folder}: none of the checkpoints {checkpoints.prefix}* can be read. Move them away to start "
            "afresh"
        )
    return found


def _identity(config: dict[str, Any], global_batch: int) -> dict[str, Any]:
    """The part of a configuration that makes it this run."""
    kept = _plain({key: config[key] for key in ("seed", "Net", "dataset", "training")})
    for section, names in FREE_TO_CHANGE.items():
        for name in names:
            kept[section].pop(name)
    return kept | {"global_batch_size": global_batch}


def _plain(value: Any) -> Any:
    """Builtin containers in place of sacred's read-only ones."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _check_same_run(found: tuple[Path, State], identity: dict[str, Any], asked_for: bool) -> None:
    """A run does not continue by itself under another configuration; from a checkpoint that was asked for it may."""
    saved = dict(found[1]["identity"])
    for section, known in defaults("training").items():
        if isinstance(known, dict) and section in saved:
            # A key that did not exist yet when the checkpoint was written had, in effect, its default.
            new = identity[section].keys() - saved[section].keys()
            saved[section] = {**saved[section], **{key: _plain(known[key]) for key in new}}
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


def _resume(trainer: Trainer, path: Path, state: State) -> None:
    """Continue from a checkpoint of ours or of the original code."""
    if not is_original(state):
        trainer.resume(state, path)
        return
    model = trainer.model
    weights = from_original(state["model"])
    if not _has_geco(model):
        weights = {key: value for key, value in weights.items() if not key.startswith("geco.")}
    load_weights(model, weights, path)
    names = [name for name, _ in model.named_parameters()]
    adam = adam_from_original(state["model"], state["model_opt"], names)
    adam["param_groups"] = [{**trainer.optimizer.state_dict()["param_groups"][0]}]
    trainer.optimizer.load_state_dict(adam)
    trainer.first_step = state["step"] + 1


def _extra_scalars(model: nn.Module) -> dict[str, Any]:
    if not isinstance(model, EfficientMORL):
        return {}
    scalars: dict[str, Any] = {"train/KL_beta": model.kl_weight}
    if model.geco is not None:
        scalars |= {"train/geco_beta": model.geco.beta.clone(), "train/geco_C_ema": model.geco.ema.clone()}
    return scalars


def _apply_speed_settings(model: nn.Module, training: dict[str, Any]) -> None:
    """Settings that change the speed and no number beyond rounding."""
    if isinstance(model, EfficientMORL):
        model.images_per_chunk = training["images_per_chunk"] or None
    if training["compile"]:
        for part in model.children():
            part.compile()


def _to_sacred(sacred_run: Run | None) -> Callable[[int, dict[str, float]], None] | None:
    if sacred_run is None:
        return None

    def log(step: int, row: dict[str, float]) -> None:
        for name, value in row.items():
            sacred_run.log_scalar(name, value, step)

    return log


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    if "--processes" in arguments:
        position = arguments.index("--processes")
        count = "".join(arguments[position + 1 : position + 2])
        arguments = arguments[:position] + arguments[position + 2 :]
        if not count.isdecimal() or int(count) < 1:
            print("error: --processes needs a number, as in `train.py --processes 2 with ...`", file=sys.stderr)
            return 1
        if int(count) > 1:
            return launch_processes(int(count), arguments)
    if not is_main_process():
        experiment.logger = logging.getLogger("emorl.train")
        experiment.logger.setLevel(logging.ERROR)  # what the main process says is enough
    observatory = os.environ.get("SACRED_OBSERVATORY", "")
    if observatory and is_main_process():
        experiment.observers.append(FileStorageObserver(observatory))
    done = run_commandline(experiment, arguments, "training")
    return STOPPED_EXIT_CODE if done is not None and done.result == "stopped" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
