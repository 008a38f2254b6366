"""One training of a task, from its configuration to its last checkpoint, in `checkpoint/<name>`."""

import getpass
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from core.data.loader import Batch, BatchSource, TrainingLoader, VariedSource
from core.files import occupy
from core.nn.noise import ShardedNoise, derive_seed
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, State, load, load_weights
from core.training.launch import end_processes, make_accelerator
from core.training.schedules import Schedule, cosine_with_restarts
from core.training.tracking import Tracker
from core.training.trainer import Trainer
from slotformer import original
from slotformer.framework.checkpoints import PREFIX, SUFFIX, EpochFiles
from slotformer.framework.comparison import decisive_differences
from slotformer.framework.optim import build_optimizer
from slotformer.framework.params import BaseParams, ParamsError
from slotformer.framework.tasks import BatchMethod, FollowingMethod, PreparingMethod, inputs_of
from slotformer.framework.validation import Validator

CHECKPOINT = Path("checkpoint")
MODELS = "models"
LINES = "scalars.jsonl"
"""Of a Tracker."""


@dataclass(frozen=True)
class Options:
    """Of the command line, beside the configuration."""

    name: str
    """Of the run."""
    params_file: Path
    weight: Path | None = None
    """Checkpoint to continue, unless the run has one of its own."""
    init: Path | None = None
    """Checkpoint to take the weights from."""
    precision: str = "fp32"
    cudnn: bool = False
    seed: int | None = None
    resident: bool = False
    wandb: bool = False


def train(task: ModuleType, params: BaseParams, options: Options) -> bool:
    """Train in this process, one of those of the run; False if a signal stopped it."""
    accelerator = make_accelerator(options.precision, find_unused_parameters=params.ddp_unused_params)
    torch.backends.cudnn.benchmark = options.cudnn
    folder = CHECKPOINT / options.name
    lock, is_fresh = None, False
    if accelerator.is_main_process:
        is_fresh = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = occupy(folder)
        if lock is None:
            raise CheckpointError(f"{folder}: another process is training there. Wait for it, or give another --name")
        _link_to_job_storage(folder / MODELS)
    accelerator.wait_for_everyone()
    try:
        finished = Run(task, params, options, accelerator, folder).run()
    except Exception:
        if is_fresh and not (any((folder / MODELS).glob("*")) or _has_curves(folder)):
            shutil.rmtree(folder)
        raise
    if accelerator.is_main_process:
        print(f"{'finished' if finished else 'stopped'}; the weights are in {folder / MODELS}")
        lock.close()
    end_processes(accelerator)
    return finished


def _has_curves(folder: Path) -> bool:
    lines = folder / LINES
    return lines.exists() and lines.stat().st_size > 0


def _link_to_job_storage(models: Path) -> None:
    """On Slurm clusters with a folder /checkpoint/<user>, which outlives jobs, have the checkpoints lie there.

    Raises CheckpointError if they have lain there, and are gone.
    """
    if models.is_symlink() and not models.exists():
        raise CheckpointError(
            f"{models}: a link to {models.readlink()}, which is gone, and the checkpoints with it. Remove the link to "
            "train from the beginning, or give another --name"
        )
    job = os.environ.get("SLURM_JOB_ID")
    storage = Path("/checkpoint") / getpass.getuser()
    if job and not models.exists() and os.access(storage, os.W_OK):
        (storage / job).mkdir(exist_ok=True)
        models.symlink_to(storage / job)


class Run:
    """The parts of one training, put together."""

    def __init__(self, task: ModuleType, params: BaseParams, options: Options, accelerator: Accelerator, folder: Path):
        self.task = task
        self.params = params
        self.options = options
        self.accelerator = accelerator
        self.folder = folder
        self.is_main = accelerator.is_main_process
        self.global_batch = params.train_batch_size * params.grad_accum_steps * accelerator.num_processes
        self.seed = params.seed if options.seed is None else options.seed
        self.timer = _Stopwatch()

    def run(self) -> bool:
        """Train to the end; False if a signal stopped it."""
        params = self.params
        found = self._checkpoint()
        if found and "seed" in found[1]:
            self._check_same_run(*found)
        torch.manual_seed(self.seed)
        self.method = self.task.build_method(params)
        training, validation = self.task.build_dataset(params)
        loader = self._loader(training)
        self.num_steps = params.max_epochs * loader.batches_per_epoch
        if found and _iterations(found[1]) >= self.num_steps:
            self._leave_finished(*found, self._files(loader.batches_per_epoch))
            return True
        model = self._model(is_fresh=found is None)
        optimizer = build_optimizer(params, self.method.param_groups(model))
        resumed_after = _iterations(found[1]) - 1 if found else -1
        tracker = self._tracker(resumed_after) if self.is_main else None
        with closing(tracker) if tracker else nullcontext():
            trainer, validator = self._trainer(model, optimizer, loader, validation, tracker)
            if found:
                self._resume(trainer, validator, *found)
            elif params.san_check_val_step > 0:
                validator.score(num_batches=params.san_check_val_step)
                if tracker:
                    validator.draw(0)
            return trainer.run()

    def _checkpoint(self) -> tuple[Path, State] | None:
        """The newest readable one of this run, else that of --weight."""
        files = EpochFiles(self.folder / MODELS, 1).files
        found = files.newest()
        if found is None and files.steps():
            raise CheckpointError(
                f"{files.folder}: no checkpoint can be read, see above. Move them away, or give another --name"
            )
        if found is None and self.options.weight:
            return self.options.weight, load(self.options.weight)
        for flag, path in (("--weight", self.options.weight), ("--init", self.options.init)):
            if found and path and self.is_main:
                print(f"note: {flag} {path} is not used: the run goes on from {found[0]}")
        return found

    def _leave_finished(self, path: Path, state: State, files: EpochFiles) -> None:
        """Raises CheckpointError if the checkpoint of all epochs is another run's, so that this one would be empty."""
        if path.parent != files.folder:
            raise CheckpointError(
                f"{path}: has all {self.params.max_epochs} epochs, so nothing is left to train. Another run "
                f"starts from these weights with --init {path}"
            )
        if self.is_main:
            _complete(files, path, state)
            print(f"{path} has all {self.params.max_epochs} epochs")

    def _check_same_run(self, path: Path, state: State) -> None:
        """Raises CheckpointError if the checkpoint is of a run that learns something else."""
        saved = state["params"] | {"global batch": state["global_batch"]}
        wanted = self.params.to_dict() | {"global batch": self.global_batch}
        if self.options.seed is not None:
            saved, wanted = saved | {"--seed": state["seed"]}, wanted | {"--seed": self.options.seed}
        if differences := decisive_differences(saved, wanted, self.task.Keys):
            raise CheckpointError(
                f"{path}: of a run with another configuration:\n  " + "\n  ".join(differences) + "\nUndo the change "
                f"to continue it, or start another run with --name NAME, from these weights with --init {path}"
            )
        self.seed = state["seed"]

    def _loader(self, source: BatchSource) -> TrainingLoader:
        params = self.params
        if self.options.resident and isinstance(source, VariedSource):
            raise ParamsError("--resident: samples of these data differ from epoch to epoch: leave --resident out")
        return TrainingLoader(
            source,
            params.train_batch_size * params.grad_accum_steps,
            seed=self.seed,
            device=self.accelerator.device,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            num_workers=min(params.num_workers, len(os.sched_getaffinity(0)) - 1),
            resident=self.options.resident,
        )

    def _model(self, is_fresh: bool) -> nn.Module:
        model = self.task.build_model(self.params)
        self.record = RunRecord(
            paper=self.task.__name__.partition(".")[0],
            builder="slotformer.framework.tasks:rebuild_model",
            arguments={"task": self.task.__name__, "params": self.params.to_dict()},
            data={key: self.params.to_dict()[key] for key in ("dataset", "data_root") if key in self.params},
            seed=self.seed,
            checkpoints={"folder": MODELS, "prefix": PREFIX, "suffix": SUFFIX},
            inputs=inputs_of(self.task, self.params, model),
        )
        if is_fresh:
            self.method.initialise(model)
        if is_fresh and self.options.init:
            load_weights(model, original.read_weights(self.options.init, model), self.options.init)
        if isinstance(self.method, PreparingMethod):
            self.method.prepare(model)
        process, count = self.accelerator.process_index, self.accelerator.num_processes
        model.noise = ShardedNoise(derive_seed(self.seed, 1), process, count)
        return model.to(self.accelerator.device)

    def _tracker(self, resumed_after: int) -> Tracker:
        """Of the main process, which also describes the run."""
        params, options = self.params, self.options
        self.record.write(self.folder / "run.json")
        shutil.copyfile(options.params_file, self.folder / "params.py")
        processes = self.accelerator.num_processes
        print(f"{options.name}: {processes} x {self.accelerator.device.type}, {options.precision}, seed {self.seed}")
        if params.gpus != processes:
            print(
                f"note: the configuration is written for {params.gpus} processes of {params.train_batch_size} samples; "
                f"the global batch is {self.global_batch}. --set gpus={processes} keeps the product"
            )
        job = os.environ.get("SLURM_JOB_ID")
        name = f"{options.name}-{job}" if job else options.name
        settings = {"project": params.project, "name": name} | ({"id": name} if job else {})
        return Tracker(self.folder, resumed_after, settings if options.wandb else None)

    def _trainer(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: TrainingLoader,
        validation: BatchSource,
        tracker: Tracker | None,
    ) -> tuple[Trainer, Validator]:
        params, steps_per_epoch = self.params, loader.batches_per_epoch
        files = self._files(steps_per_epoch)
        if self.is_main:
            files.files.remove_partial_files()
        validator = Validator(
            model=model,
            method=self.method,
            source=validation,
            batch_size=params.val_batch_size,
            accelerator=self.accelerator,
            steps_per_epoch=steps_per_epoch,
            num_epochs=params.max_epochs,
            every=params.eval_interval,
            seed=self.seed,
            checkpoints=files,
            tracker=tracker,
            draws=params.n_samples > 0,
        )
        follows = isinstance(self.method, FollowingMethod)
        trainer = Trainer(
            model=model,
            optimizer=optimizer,
            batches=lambda first: self._prepared(model, loader, first),
            accelerator=self.accelerator,
            last_step=self.num_steps - 1,
            checkpoints=files,
            checkpoint_every=files.is_due,
            seed=self.seed,
            schedule=self._schedule(),
            clip_norm=params.clip_grad if params.clip_grad > 0 else None,
            accumulate=params.grad_accum_steps,
            controllers=[lambda step, terms: self.method.after_step(model)] if follows else (),
            tracker=tracker,
            log_every=params.print_iter,
            log_means=True,
            extra_scalars=lambda: self._extra_scalars(model, optimizer, steps_per_epoch),
            extra_state={
                "params": params.to_dict(),
                "global_batch": self.global_batch,
                "run": self.record.to_dict(),
                "validation": validator.state,
            },
            validate=validator,
            validate_every=steps_per_epoch,
        )
        self.trainer = trainer
        return trainer, validator

    def _files(self, steps_per_epoch: int) -> EpochFiles:
        params = self.params
        return EpochFiles(
            self.folder / MODELS, steps_per_epoch, params.save_interval, keeps_epochs=params.save_epoch_end
        )

    def _schedule(self) -> Schedule:
        """Half a cosine after a linear warm-up of a share `warmup_steps_pct` of all steps."""
        warmup = self.params.get("warmup_steps_pct", 0.0) * self.num_steps
        return cosine_with_restarts(self.num_steps, warmup, self.method.floor)

    def _prepared(self, model: nn.Module, loader: TrainingLoader, first_step: int) -> Iterator[Batch]:
        """The batches from `first_step` on; before each the values that vary are set."""
        epoch, takes = -1, isinstance(self.method, BatchMethod)
        for step, batch in enumerate(self.timer.watch(loader.batches(first_step)), first_step):
            if step // loader.batches_per_epoch != epoch:
                epoch = step // loader.batches_per_epoch
                self._begin_epoch(model, epoch)
            self.method.before_step(model, step, self.num_steps)
            yield self.method.take(model, batch) if takes else batch

    def _begin_epoch(self, model: nn.Module, epoch: int) -> None:
        if self.is_main:
            tqdm.write(f"epoch {epoch + 1} of {self.params.max_epochs} begins")
        for key, value in self.params.at_epoch(epoch).items():
            if self.is_main and getattr(self.params, key) != value:
                tqdm.write(f"{key}: {getattr(self.params, key)} -> {value}")
            setattr(self.params, key, value)
            if key == "clip_grad":
                self.trainer.clip_norm = value if value > 0 else None
            elif hasattr(model, key):
                setattr(model, key, value)
            else:
                raise ParamsError(f"{key}_all: {key} cannot vary; what can is clip_grad and numbers of the model")

    def _extra_scalars(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int
    ) -> dict[str, Tensor | float]:
        step = self.timer.steps + self.trainer.first_step - 1
        scalars = {"epoch": float(step // steps_per_epoch + 1), "it": float(step + 1), **self.timer.means()}
        if scaler := self.accelerator.scaler:
            scalars["fp16_loss_scale"] = scaler.get_scale()
        return {f"train/{name}": value for name, value in {**scalars, **self.method.scalars(model, optimizer)}.items()}

    def _resume(self, trainer: Trainer, validator: Validator, path: Path, state: State) -> None:
        if original.is_original(state):
            state = original.training_state(state, trainer.model, path)
        trainer.resume(state, path)
        validator.state.update(state.get("validation", {}))
        if self.is_main:
            _complete(trainer.checkpoints, path, state)
            print(f"continuing {path} after {trainer.first_step} iterations")


def _complete(files: EpochFiles, path: Path, state: State) -> None:
    """Add what a killed process left out beside the checkpoint `path`, if it is one of these files."""
    if path.parent == files.folder and "step" in state:
        best_epoch = state.get("validation", {}).get("best_epoch", 0)
        files.complete(state["step"], is_best=best_epoch * files.steps_per_epoch == state["step"] + 1)


def _iterations(state: State) -> int:
    """Done, in a checkpoint of ours or of the original."""
    return state["step"] + 1 if "step" in state else state.get("it", 0)


class _Stopwatch:
    """Seconds that a step waits for its batch, and that it takes from then on."""

    def __init__(self) -> None:
        self.steps = 0
        self._waited = self._worked = 0.0
        self._count = 0

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            began = time.perf_counter()
            batch = next(batches)
            got = time.perf_counter()
            self._waited += got - began
            self.steps += 1
            self._count += 1
            yield batch
            self._worked += time.perf_counter() - got

    def means(self) -> dict[str, float]:
        """Since the last call. On a GPU the work is what it takes to queue a step."""
        count, self._count = max(self._count, 1), 0
        means = {"data_time": self._waited / count, "forward_time": self._worked / count}
        self._waited = self._worked = 0.0
        return means
