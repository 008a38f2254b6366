"""One training of an experiment, from its hyperparameters to its last checkpoint."""

import gc
import os
import random
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from clevrtex import original
from clevrtex.framework import folders
from clevrtex.framework.archive import archive_sources
from clevrtex.framework.checkpoints import BestAndLast, read
from clevrtex.framework.continuing import (
    CONDITIONS,
    IDENTITY,
    conditions,
    make_plan,
    plain,
    precision_of,
    resumed,
)
from clevrtex.framework.learning_rate_range import range_test
from clevrtex.framework.optim import Plateau
from clevrtex.framework.options import Hyperparameters, RunOptions
from clevrtex.framework.profiling import StepProfiler
from clevrtex.framework.scheduled_values import ScheduledValues
from clevrtex.framework.validation import training_scalars
from clevrtex.framework.validator import SANITY_BATCHES, Validator, at_most
from core.data.loader import Batch, TrainingLoader
from core.data.spec import DataSpec
from core.files import occupy, replacing
from core.nn.noise import ShardedNoise, derive_seed
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, State, load_weights
from core.training.launch import end_processes, make_accelerator
from core.training.tracking import Tracker
from core.training.trainer import Trainer

PATIENCE = 5


def train(hparams: Hyperparameters, options: RunOptions, given: set[str]) -> bool:
    """Train in this process, one of those of the run; False if a signal stopped it. `given`: flags of the command."""
    accelerator = make_accelerator(precision_of(options), find_unused_parameters=False)
    torch.backends.cudnn.benchmark = options.benchmark
    torch.autograd.set_detect_anomaly(bool(options.detect_anomaly))
    plan = _agree(accelerator, lambda: make_plan(hparams, options, accelerator.num_processes > 1))
    lock = None
    if accelerator.is_main_process and (lock := occupy(plan.folder)) is None:
        raise CheckpointError(f"{plan.folder}: another process is training there. Wait for it, or pass --resume False")
    found = read(plan.checkpoint) if plan.checkpoint else None
    if found:
        hparams = resumed(hparams, found, options, given, accelerator)
    try:
        finished = Run(hparams, options, accelerator, plan.folder, found).run()
    except KeyboardInterrupt:
        if accelerator.is_main_process:
            folders.finish(plan.folder, succeeded=False)
        raise
    except Exception:
        if found is None and accelerator.is_main_process and not (plan.folder / folders.CHECKPOINTS).exists():
            folders.remove(plan.folder)
        raise
    if accelerator.is_main_process:
        folders.finish(plan.folder, finished)
        print(f"Stopping due to {folders.SUCCESS if finished else folders.INTERRUPT}; results are in {plan.folder}")
        lock.close()
    end_processes(accelerator)
    return finished


def _agree(accelerator: Accelerator, decide: Callable[[], Any]) -> Any:
    """What the main process decides, on all."""
    decided: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            decided = [decide()]
        except Exception as error:  # the others must not wait for ever
            decided = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(decided)
    if isinstance(decided[0], Exception):
        raise decided[0]
    return decided[0]


class Run:
    """The parts of one training, put together."""

    def __init__(
        self,
        hparams: Hyperparameters,
        options: RunOptions,
        accelerator: Accelerator,
        folder: Path,
        found: tuple[Path, State] | None,
    ):
        self.hparams = hparams
        self.options = options
        self.accelerator = accelerator
        self.folder = folder
        self.found = found
        self.is_main = accelerator.is_main_process
        self.spec = DataSpec.parse(hparams.data)
        self.seed = found[1]["seed"] if found else _agree(accelerator, lambda: seed_of(hparams.seed))
        self.accumulate = options.acc or 1

    def run(self) -> bool:
        """Train to the end, or tune; False if a signal stopped it."""
        random.seed(self.seed)
        torch.manual_seed(self.seed)
        source = self.spec.open("train", self.options.data_root)
        model = self._model(source.image_size)
        loader = self._loader(source)
        if self.options.tune:
            self._tune(model, loader)
            return True
        checkpoints = BestAndLast(self.folder, self.options.save_top)
        steps_per_epoch = loader.batches_per_epoch
        self.max_steps = steps_per_epoch * self.hparams.epochs if self.hparams.epochs else self.hparams.max_steps
        schedule = self.hparams.rate_schedule(steps_per_epoch)
        validator = self._validator(model, steps_per_epoch)
        validator.plateau = schedule if isinstance(schedule, Plateau) else None
        validator.on_score = checkpoints.note
        optimizer = self.hparams.build_optimizer(model)
        scheduled = ScheduledValues(self.hparams.schedules(), steps_per_epoch, self.max_steps)
        scheduled.set(model, 0)
        profiler = StepProfiler(self.folder / "profile.out") if self.options.profile and self.is_main else None
        trainer = Trainer(
            model=model,
            optimizer=optimizer,
            batches=lambda first: scheduled.before(
                model, first, collecting_garbage(self._recoloured(loader, first), self.options.gc, steps_per_epoch)
            ),
            accelerator=self.accelerator,
            last_step=self.max_steps - 1,
            checkpoints=checkpoints,
            checkpoint_every=self.options.checkpoint_every,
            seed=self.seed,
            schedule=schedule,
            clip_norm=self.hparams.grad_clip,
            accumulate=self.accumulate,
            controllers=[model.after_step] if hasattr(model, "after_step") else [],
            hooks=[(1, profiler)] if profiler else [],
            log_every=self.options.log_every,
            scalars_of=training_scalars,
            extra_scalars=lambda: {**self._extra_scalars(model, optimizer), **scheduled.numbers(model)},
            extra_state={
                IDENTITY: plain(self.hparams),
                CONDITIONS: conditions(self.hparams, self.options, self.accelerator.num_processes),
                "run": self.record.to_dict(),
                "best_scores": checkpoints.scores,
                "validation": validator.state,
                **({"plateau": validator.plateau.state} if validator.plateau else {}),
            },
            show_progress=not self.options.quiet,
            validate=validator,
            validate_every=steps_per_epoch,
        )
        if self.found:
            self._restore(trainer, checkpoints, validator)
        # Only here, when all of the checkpoint fits: they write over the records of the run.
        tracker = trainer.tracker = validator.tracker = self._tracker(model, checkpoints)
        if hasattr(model, "prepare_training"):
            model.prepare_training(source, steps_per_epoch, optimizer)
        if not self.found:
            validator.score(num_batches=SANITY_BATCHES)
        if self.options.compile:
            for part in model.children():
                part.compile()
        try:
            finished = trainer.run()
        finally:
            if profiler:
                profiler.close()
        if tracker:
            tracker.close()
        return finished

    def _model(self, image_size: tuple[int, int]) -> nn.Module:
        arguments = self.hparams.model_arguments(image_size)
        if self.options.checkpointing:
            arguments |= self.hparams.checkpointing_arguments()
        self.record = RunRecord(
            paper="clevrtex",
            builder="clevrtex.models:build_model",
            arguments={"path": self.hparams.model, "arguments": plain_value(arguments)},
            data={"spec": self.hparams.data, "root": self.options.data_root},
            seed=self.seed,
            checkpoints={"file": f"{folders.CHECKPOINTS}/{folders.LAST}"},
            inputs={"kind": "images", "size": list(image_size)},
        )
        model = self.record.build()
        if self.accelerator.num_processes > 1 and self.accelerator.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if self.options.weights and not self.found:
            path = Path(self.options.weights)
            load_weights(model, original.read_weights(path, self.hparams.name), path)
        if hasattr(model, "unused_parameters") and model.unused_parameters():
            self.accelerator.ddp_handler.find_unused_parameters = True
        process, count = self.accelerator.process_index, self.accelerator.num_processes
        model.noise = ShardedNoise(derive_seed(self.seed, 1), process, count)
        return model.to(self.accelerator.device)

    def _loader(self, source: Any) -> TrainingLoader:
        # One optimiser step sums the gradients of `acc` batches: a batch of all of them, which goes through in parts.
        loader = TrainingLoader(
            source,
            self.hparams.batch_size * self.accumulate,
            seed=self.seed,
            device=self.accelerator.device,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            num_workers=num_workers(self.options.workers, self.hparams.batch_size),
            resident=self.options.resident,
        )
        if self.options.limit is not None:
            loader.batches_per_epoch = at_most(self.options.limit, loader.batches_per_epoch)
        return loader

    def _recoloured(self, loader: TrainingLoader, first_step: int) -> Iterator[Batch]:
        return map(self.spec.recolour, loader.batches(first_step))

    def _validator(self, model: nn.Module, steps_per_epoch: int) -> Validator:
        return Validator(
            model=model,
            source=self.spec.open("val", self.options.data_root, masks=self.spec.has_masks),
            spec=self.spec,
            batch_size=self.hparams.batch_size,
            accelerator=self.accelerator,
            steps_per_epoch=steps_per_epoch,
            max_steps=self.max_steps,
            seed=self.seed,
            limit=self.options.limit,
            masks_have_background=self.hparams.masks_have_background,
            as_original=self.options.as_original,
            on_cpu=self.options.cpu_metrics,
            quiet=self.options.quiet,
            patience=None if self.options.no_stop else PATIENCE,
        )

    def _restore(self, trainer: Trainer, checkpoints: BestAndLast, validator: Validator) -> None:
        path, state = self.found
        trainer.resume(state, path)
        checkpoints.scores[:] = state["best_scores"]
        validator.state.update(state["validation"])
        if validator.plateau and "plateau" in state:
            validator.plateau.state.update(state["plateau"])

    def _tracker(self, model: nn.Module, checkpoints: BestAndLast) -> Tracker | None:
        """Of the main process, which also describes the run."""
        if not self.is_main:
            return None
        checkpoints.remove_partial_files()
        self._describe(model)
        if self.found:
            print(f"Starting from step {self.found[1]['step'] + 1} of {self.found[0]}")
        return Tracker(self.folder, self.found[1]["step"] if self.found else -1)

    def _extra_scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor | float]:
        scalars: dict[str, Any] = {f"lr-{type(optimizer).__name__}": optimizer.param_groups[0]["lr"]}
        if self.options.track_grads:
            for name, value in model.named_parameters():
                if value.grad is not None:
                    scalars[f"grad_2.0_norm/{name}"] = value.grad.norm()
        return scalars

    def _describe(self, model: nn.Module) -> None:
        """Write what the run is, and say it."""
        with replacing(self.folder / folders.HPARAMS) as partial:
            partial.write_text(yaml.safe_dump(plain(self.hparams), sort_keys=False))
        self.record.write(self.folder / "run.json")
        if not self.options.nowatermark and not self.found:
            archive_sources(self.folder)
        where = f"{self.accelerator.num_processes} x {self.accelerator.device.type}"
        print(f"python {sys.version.split()[0]}, torch {torch.__version__}, {where}, seed {self.seed}")
        print(f"Experiment path {self.folder}")
        print("".join(f"  {name}: {value}\n" for name, value in plain(self.hparams).items()), end="")
        print(f"{model}\n{sum(value.numel() for value in model.parameters()):,} parameters")

    def _tune(self, model: nn.Module, loader: TrainingLoader) -> None:
        optim, batches = self.hparams.range_tested(), self._recoloured(loader, 0)
        suggestion, table = range_test(model, optim, batches, self.accelerator, self.hparams.grad_clip)
        if self.is_main:
            print(table)
            print(f"suggested: --learning_rate {suggestion:.3g}")
            found = plain(self.hparams) | {"suggested_learning_rate": suggestion}
            (self.folder / folders.HPARAMS).write_text(yaml.safe_dump(found, sort_keys=False))


def plain_value(value: Any) -> Any:
    """Builtin values only, lists for tuples."""
    return yaml.safe_load(yaml.safe_dump(value))


def collecting_garbage(batches: Iterator[Batch], every: int, steps_per_epoch: int) -> Iterator[Batch]:
    """The batches; Python's garbage collector runs after every so many of them and at no other time (0: as ever)."""
    if not every:
        yield from batches
        return
    gc.disable()
    counts: list[int] = []
    try:
        for number, batch in enumerate(batches, start=1):
            yield batch
            if number % every == 0:
                counts.append(gc.collect())
            if number % steps_per_epoch == 0 and counts:
                print(f"garbage: {sum(counts) / len(counts):.0f} objects per collection")
                counts.clear()
    finally:
        gc.enable()


def seed_of(asked: int | str | None) -> int:
    """The number that `--seed` stands for. Raises ValueError."""
    if asked == "random":
        return secrets.randbelow(2**32 - 1)
    if asked is None:
        return 0
    if isinstance(asked, str) or not 0 <= asked < 2**32:
        raise ValueError(f"--seed {asked}: expected a number from 0 to 2**32 - 1, random or None")
    return asked


def num_workers(asked: int | str, batch_size: int) -> int:
    """Reading processes: `no` is none; zero, less or other text one per core, at most 4 (batches up to 32) or 8."""
    if asked == "no":
        return 0
    if isinstance(asked, int) and asked > 0:
        return asked
    return min(len(os.sched_getaffinity(0)), 4 if batch_size <= 32 else 8)
