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
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import Accelerator
from sacred import SETTINGS, Experiment
from sacred.observers import FileStorageObserver
from sacred.run import Run
from sacred.utils import apply_backspaces_and_linefeeds
from torch import Tensor, nn

from core.data.loader import BatchSource, TrainingLoader
from core.files import occupy
from core.nn.noise import ShardedNoise, derive_seed
from core.outcome import exit_code_of
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, CheckpointFolder, State
from core.training.launch import end_processes, is_main_process, launch_processes, make_accelerator
from core.training.schedules import constant, warmup_then_decay
from core.training.signals import STOPPED_EXIT_CODE
from core.training.tracking import Tracker, require_wandb
from core.training.trainer import Trainer
from emorl.drawing import draw
from emorl.models import EfficientMORL, as_trained, build_model
from emorl.resuming import check_same_run, checkpoint_to_resume, identity_of, is_record_of, plain, resume
from emorl.settings import (
    USER_ERRORS,
    UserError,
    arguments_of_model,
    check,
    defaults,
    open_data,
    run_commandline,
)

CLIP_NORM = 5.0
LOG_NAMES = {
    "EfficientMORL": {"loss": "train/total_loss", "nll": "train/NLL", "kl": "train/KL"},
    "SlotAttention": {"loss": "train/MSE"},
    "LocalSlotAttention": {"loss": "train/MSE"},
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
    if training["wandb_project"]:
        require_wandb()
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
    lock = _occupied(checkpoints.folder, name) if accelerator.is_main_process else None
    found, branched_from = checkpoint_to_resume(training, checkpoints)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        checkpoints.remove_partial_files()

    global_batch = training["batch_size"] * accelerator.num_processes
    identity = identity_of(config, global_batch)
    resumed_after, tb_name = None, f"{name}_{datetime.now():%Y-%m-%d--%H-%M-%S}"
    if found:
        if is_record_of(name, found[1].get("tb_name", "")):
            resumed_after, tb_name = found[1]["step"], found[1]["tb_name"]
        if "identity" in found[1]:
            is_branching = branched_from is not None and found[1].get("branched_from") != branched_from
            check_same_run(found, identity, asked_for=is_branching)
    record = RunRecord(
        paper="emorl",
        builder="emorl.models:build_model",
        arguments=as_trained(described, model, training["iters"]),
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
            {"project": training["wandb_project"], "name": name, "id": tb_name} if training["wandb_project"] else None,
            also=_to_sacred(sacred_run),
        )
        print(f"rank 0 of {accelerator.num_processes} on {accelerator.device}, seed {config['seed']}")
        print(f"{model}\n{sum(p.numel() for p in model.parameters()):,} parameters")

    def kept(step: int) -> State:
        """What a checkpoint holds besides the state of the training."""
        return {
            "identity": identity,
            "config": plain(config),
            "kl_beta": training["kl_beta_init"],
            "tb_name": tb_name,
            "branched_from": branched_from,
            "run": replace(record, arguments=as_trained(described, model, step)).to_dict(),
        }

    trainer = Trainer(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=training["lr"], fused=True),
        batches=_loader(config, source, accelerator).batches,
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
        extra_state=kept,
        show_progress=training["tqdm"],
    )
    if found:
        resume(trainer, *found)
        if accelerator.is_main_process:
            print(f"continuing {found[0]} after step {found[1]['step']}")
    _apply_speed_settings(model, training)
    finished = trainer.run()
    if tracker:
        tracker.close()
        print(f"{'finished' if finished else 'stopped'}; the weights are in {checkpoints.folder}")
    end_processes(accelerator)
    if lock:
        lock.close()
    return "finished" if finished else "stopped"


def _occupied(weights: Path, name: str) -> IO:
    """The lock of a run. Raises CheckpointError if another process has it."""
    lock = occupy(weights, f".{name}.lock")
    if lock is None:
        raise CheckpointError(
            f"{weights}: another process trains {name} there. Wait for it, or set training.run_suffix to another name"
        )
    return lock


def _loader(config: dict[str, Any], source: BatchSource, accelerator: Accelerator) -> TrainingLoader:
    training = config["training"]
    return TrainingLoader(
        source,
        training["batch_size"],
        seed=config["seed"],
        device=accelerator.device,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        num_workers=training["num_workers"],
        resident=training["resident"],
    )


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


def _launch(count: int, arguments: list[str]) -> int:
    """As many processes, which meet at training.DDP_port unless MASTER_PORT is set; their exit code."""
    ports = [word.partition("=")[2] for word in arguments if word.startswith("training.DDP_port=")]
    if ports and ports[-1].isdecimal() and int(ports[-1]) > 0:
        os.environ.setdefault("MASTER_PORT", ports[-1])
    code = launch_processes(count, arguments)
    return code if code >= 0 else 128 - code


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    flags = [word for word in arguments if word.partition("=")[0] == "--processes"]
    if flags:
        position = arguments.index(flags[0])
        _, is_one_word, count = flags[0].partition("=")
        rest = arguments[position + 1 :]
        if not is_one_word:
            count, rest = "".join(rest[:1]), rest[1:]
        arguments = arguments[:position] + rest
        if not count.isdecimal() or int(count) < 1:
            print("error: --processes needs a number, as in `train.py --processes 2 with ...`", file=sys.stderr)
            return 1
        if int(count) > 1:
            return exit_code_of(lambda: _launch(int(count), arguments))
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
