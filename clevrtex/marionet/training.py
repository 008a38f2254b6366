"""One training of MarioNette in its own folder, from the flags of its command line to its last checkpoint."""

import itertools
import os
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from clevrtex.experiments.marionette import MarioNette as Experiment
from clevrtex.framework import folders
from clevrtex.framework.training import plain_value
from clevrtex.framework.validator import Validator
from clevrtex.marionet.checkpoints import MODEL, PREFIX, SUFFIX, EpochFiles
from clevrtex.marionet.pictures import training_pictures
from clevrtex.models.marionette import MarioNette
from clevrtex.original.marionette import read_background, read_model
from core.data.loader import BatchSource, TrainingLoader
from core.data.spec import DataSpec
from core.files import occupy
from core.nn.noise import ShardedNoise, derive_seed
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, State, config_differences, load_weights
from core.training.launch import end_processes, make_accelerator
from core.training.tracking import Tracker
from core.training.trainer import Trainer

OUTPUT = Path("output")
LENGTH = ("num_steps", "num_epochs")
MAY_CHANGE = {
    "checkpoint_dir",
    "data_root",
    "val_data",
    "tag",
    "num_worker_threads",
    "gpus",
    "cuda",
    "debug",
    "checkpoint_every",
}
"""Flags that do not decide what is learnt."""
SCALARS_EVERY = 100
"""Steps; `loss` is logged every step."""
PICTURES_EVERY = 2000


def config_of(arguments: Namespace) -> dict[str, Any]:
    """The flags that decide what is learnt."""
    return {name: value for name, value in vars(arguments).items() if name not in MAY_CHANGE}


def framed(flag: str, text: str, side: int) -> str:
    """A data string with that side. Raises ValueError if it says another size."""
    size = DataSpec.parse(text).size
    if size not in (None, (side, side)):
        raise ValueError(
            f"--{flag} {text!r}: expected pictures of --canvas_size {side}, found {size}. Leave the size out, or give "
            "the canvas the same"
        )
    return text if size else f"{text}-({side},{side})"


def folder_of(arguments: Namespace) -> Path:
    """`--checkpoint_dir`, or the first of `<tag>`, `<tag>_0`, ... that is free or has this run, which has not ended."""
    if arguments.checkpoint_dir:
        return Path(arguments.checkpoint_dir)
    if "RANK" in os.environ:
        raise ValueError("several processes need a --checkpoint_dir: each would look for a folder of its own")
    spec = DataSpec.parse(framed("data", arguments.data, arguments.canvas_size))
    parent = OUTPUT / str(spec) / "marionet"
    names = itertools.chain([arguments.tag], (f"{arguments.tag}_{number}" for number in itertools.count()))
    return next(parent / name for name in names if _is_free(parent / name, config_of(arguments)))


def _is_free(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a run with this config can begin or go on there."""
    if not folder.exists():
        return True
    lock = occupy(folder)
    if lock is None:
        return False
    lock.close()
    found = EpochFiles(folder).newest()
    return found is None or (found[1].get("config") == config and found[1]["step"] < found[1]["last_step"])


def train(arguments: Namespace, folder: Path) -> bool:
    """Train in this process, one of those of the run; False if a signal stopped it."""
    if arguments.cuda and not torch.cuda.is_available():
        raise ValueError("--cuda: there is no GPU; leave the flag out")
    torch.autograd.set_detect_anomaly(arguments.debug)
    accelerator = make_accelerator()
    lock, is_fresh = None, False
    if accelerator.is_main_process:
        is_fresh = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = occupy(folder)
        if lock is None:
            raise CheckpointError(f"{folder}: another process is training there. Wait for it, or take another folder")
    found = EpochFiles(folder).newest()
    if found:
        _check_config(found[0], found[1], config_of(arguments))
    try:
        finished = Run(arguments, folder, accelerator, found).run()
    except Exception:
        if is_fresh and not (folder / MODEL).exists():
            folders.remove(folder)
        raise
    if lock:
        print(f"{'finished' if finished else 'stopped'}; results are in {folder}")
        lock.close()
    end_processes(accelerator)
    return finished


def _check_config(path: Path, state: State, config: dict[str, Any]) -> None:
    """Raises CheckpointError unless the run was started with the same flags; it may become longer or shorter."""
    if "config" not in state:
        raise CheckpointError(
            f"{path}: no state of a training, which could be continued. Take another --checkpoint_dir, and start from "
            f"these weights with --load_model {path}"
        )
    saved, wanted = ({name: of[name] for name in of if name not in LENGTH} for of in (state["config"], config))
    if differences := config_differences(saved, wanted):
        raise CheckpointError(
            f"{path}: of a run with other flags:\n  " + "\n  ".join(differences) + "\nGive the flags that it was "
            "started with, or another --checkpoint_dir"
        )


class Run:
    """The parts of one training, put together."""

    def __init__(self, arguments: Namespace, folder: Path, accelerator: Accelerator, found: tuple[Path, State] | None):
        self.arguments = arguments
        self.folder = folder
        self.accelerator = accelerator
        self.found = found
        self.is_main = accelerator.is_main_process
        self.data = framed("data", arguments.data, arguments.canvas_size)
        shared = {entry.name for entry in fields(Experiment)} - {"lr"}  # which is the name of a schedule there
        flags = {name: value for name, value in vars(arguments).items() if name in shared}
        self.experiment = Experiment(learning_rate=arguments.lr, learning_rate_bg=arguments.lr_bg, **flags)

    def run(self) -> bool:
        """Train to the end; False if a signal stopped it."""
        arguments = self.arguments
        torch.manual_seed(arguments.seed)
        source = DataSpec.parse(self.data).open("train", arguments.data_root)
        loader = self._loader(source)
        epochs = arguments.num_epochs or max(1, arguments.num_steps * arguments.bs // len(source))
        num_steps = epochs * loader.batches_per_epoch
        if self.found and self.found[1]["step"] + 1 >= num_steps:
            if self.is_main:
                print(f"{self.found[0]} has all {num_steps} steps. More --num_steps would continue it")
            return True
        model = self._model()
        tracker = self._tracker()
        trainer = self._trainer(model, loader, num_steps, tracker)
        finished = trainer.run()
        if tracker:
            tracker.close()
        return finished

    def _loader(self, source: BatchSource) -> TrainingLoader:
        processes = self.accelerator.num_processes
        if self.arguments.bs % processes:
            raise ValueError(f"--bs {self.arguments.bs}: cannot be shared by {processes} processes")
        return TrainingLoader(
            source,
            self.arguments.bs // processes,
            seed=self.arguments.seed,
            device=self.accelerator.device,
            process_index=self.accelerator.process_index,
            num_processes=processes,
            num_workers=self.arguments.num_worker_threads,
        )

    def _model(self) -> MarioNette:
        arguments = self.arguments
        model_arguments = self.experiment.model_arguments((arguments.canvas_size, arguments.canvas_size))
        self.record = RunRecord(
            paper="clevrtex",
            builder="clevrtex.models:build_model",
            arguments={"path": Experiment.model, "arguments": plain_value(model_arguments)},
            data={"spec": self.data, "root": arguments.data_root},
            seed=arguments.seed,
            checkpoints={"folder": MODEL, "prefix": PREFIX, "suffix": SUFFIX},
            inputs={"kind": "images", "size": [arguments.canvas_size, arguments.canvas_size]},
        )
        model = self.record.build()
        for path, read in ((arguments.load_model, read_model), (arguments.load_bg, read_background)):
            if path and not self.found:
                load_weights(model, {**model.state_dict(), **read(Path(path))}, path)
        process, count = self.accelerator.process_index, self.accelerator.num_processes
        model.noise = ShardedNoise(derive_seed(arguments.seed, 1), process, count)
        return model.to(self.accelerator.device)

    def _tracker(self) -> Tracker | None:
        """Of the main process, which also describes the run."""
        if not self.is_main:
            return None
        self.record.write(self.folder / "run.json")
        where = f"{self.accelerator.num_processes} x {self.accelerator.device.type}"
        print(f"folder {self.folder}, {where}, seed {self.arguments.seed}")
        print("".join(f"  {name}: {value}\n" for name, value in config_of(self.arguments).items()), end="")
        return Tracker(self.folder, self.found[1]["step"] if self.found else -1)

    def _trainer(self, model: MarioNette, loader: TrainingLoader, num_steps: int, tracker: Tracker | None) -> Trainer:
        """Ready to run, from the checkpoint if there is one."""
        files = EpochFiles(self.folder, loader.batches_per_epoch, num_steps - 1)
        if self.is_main:
            files.remove_partial_files()
        validator = self._validator(model, loader.batches_per_epoch, num_steps, tracker)
        spec = DataSpec.parse(self.data)

        def log_loss(step: int, terms: dict[str, Tensor]) -> None:
            if tracker and step % SCALARS_EVERY:
                tracker.scalars(step, {"loss": terms["loss"]})

        def draw(step: int, batch: dict[str, Tensor]) -> None:
            noise = ShardedNoise(derive_seed(self.arguments.seed, 4)).at(step, batch["image"].device)
            for name, picture in training_pictures(model, batch["image"], noise).items():
                tracker.picture(step, name, picture.permute(1, 2, 0).numpy())

        trainer = Trainer(
            model=model,
            optimizer=self.experiment.build_optimizer(model),
            batches=lambda first: map(spec.recolour, loader.batches(first)),
            accelerator=self.accelerator,
            last_step=num_steps - 1,
            checkpoints=files,
            checkpoint_every=self.arguments.checkpoint_every,
            seed=self.arguments.seed,
            controllers=[log_loss],
            hooks=[(PICTURES_EVERY, draw)],
            tracker=tracker,
            log_every=SCALARS_EVERY,
            scalars_of=dict,
            extra_state={
                "config": config_of(self.arguments),
                "last_step": num_steps - 1,
                "run": self.record.to_dict(),
                "validation": validator.state,
            },
            validate=validator,
            validate_every=loader.batches_per_epoch,
        )
        if self.found:
            path, state = self.found
            trainer.resume(state, path)
            validator.state.update(state["validation"])
            if self.is_main:
                print(f"continuing {path} from step {trainer.first_step}")
        return trainer

    def _validator(self, model: MarioNette, steps_per_epoch: int, num_steps: int, tracker: Tracker | None) -> Validator:
        arguments = self.arguments
        spec = DataSpec.parse(framed("val_data", arguments.val_data or self.data, arguments.canvas_size))
        return Validator(
            model=model,
            source=spec.open("val", arguments.data_root, masks=spec.has_masks),
            spec=spec,
            batch_size=arguments.bs // self.accelerator.num_processes,
            accelerator=self.accelerator,
            steps_per_epoch=steps_per_epoch,
            max_steps=num_steps,
            seed=arguments.seed,
            tracker=tracker,
        )
