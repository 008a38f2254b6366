"""One training of OSRT or SRT, from its configuration to its last checkpoint, in the folder of the configuration."""

import importlib.util
import secrets
import sys
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from core.data.cameras import FixedDraws
from core.data.loader import Batch, TrainingLoader
from core.files import occupy, same_file
from core.nn.noise import ShardedNoise, derive_seed
from core.runs import RunRecord
from core.spelling import nearest
from core.training.checkpoint import CheckpointError, State, config_differences
from core.training.launch import end_processes, make_accelerator
from core.training.schedules import warmup_then_exponential
from core.training.tracking import Tracker
from core.training.trainer import Terms, Trainer, under_train
from osrt import original
from osrt.checkpoints import LAST, RunFiles, config_of, iterations_of
from osrt.config import Config, ConfigError
from osrt.data import Source, inputs_of, open_split, training_batches, training_loader
from osrt.evaluation import Evaluator
from osrt.models import has_slots
from osrt.models.light_field import LightField
from osrt.monitor import Monitor, is_better, parameter_counts, parameter_table

ORIGINAL = "model_of_original.pt"
"""Name under which a checkpoint of the original code stays when its run is continued."""
DECAY_RATE = 0.16
FREE = {
    "data": ("path",),
    "training": (
        *("num_workers", "max_it", "print_every", "checkpoint_every", "validate_every", "visualize_every"),
        *("backup_every", "model_selection_metric", "model_selection_mode"),
        *("peak_lr", "lr_warmup", "decay_it"),
    ),
}
"""Keys that may change when a run is continued: those that do not decide what is learnt, and the learning rate."""


REMEDY = (
    "The same command with a lower training.peak_lr or a longer training.lr_warmup (--set) continues from "
    "model.pt. To go back further, copy a model_<N>.pt over it. Gradients are never clipped"
)
"""For a loss that is not finite."""


@dataclass(frozen=True)
class Options:
    """Of the command line, beside the configuration."""

    exit_after: int | None = None
    """Iterations, in place of training.max_it."""
    on_test: bool = False
    """Evaluate on the split `test` in place of `val`."""
    evaluate_now: bool = False
    visualise_now: bool = False
    max_eval: int | None = None
    full_scale: bool = False
    print_model: bool = False
    wandb: bool = False
    rtpt: str | None = None
    """Initials for the title of the process."""
    precision: str = "fp32"
    seed: int | None = None
    checkpointing: bool = False
    accumulate: int = 1


def train(config: Config, folder: Path, options: Options) -> bool:
    """Train in this process, one of those of the run; False if a signal stopped it."""
    for package in ("wandb", "rtpt"):
        if getattr(options, package) and importlib.util.find_spec(package) is None:
            raise ConfigError(f"--{package}: the package {package} is not installed: pip install {package}")
    accelerator = make_accelerator(options.precision)
    lock = None
    if accelerator.is_main_process and (lock := occupy(folder)) is None:
        raise CheckpointError(f"{folder}: another process is training there. Wait, or copy config.yaml elsewhere")
    run = Run(config, folder, options, accelerator)
    finished = run.run()
    if accelerator.is_main_process:
        where = f"the weights are in {run.weights}" if run.weights else "nothing was trained, there are no weights"
        print(f"{'finished' if finished else 'stopped'}; {where}")
        lock.close()
    end_processes(accelerator)
    return finished


class Run:
    """The parts of one training, put together."""

    def __init__(self, config: Config, folder: Path, options: Options, accelerator: Accelerator):
        self.config = config
        self.folder = folder
        self.options = options
        self.accelerator = accelerator
        self.is_main = accelerator.is_main_process
        self.split = "test" if options.on_test else "val"
        self.max_it = config.training.max_it if options.exit_after is None else options.exit_after
        self.files = RunFiles(folder, config.training.backup_every)
        self.rate_factor = warmup_then_exponential(config.training.lr_warmup, config.training.decay_it, DECAY_RATE)
        self.kept: State = {"config": config.to_dict(), "best": None, "best_it": None}
        """What goes into checkpoints beside the trainer's state."""
        self.weights: Path | None = None
        """The file that holds them."""
        self.seconds_before, self.began = 0.0, time.perf_counter()
        self.terms: Terms = {}

    def run(self) -> bool:
        """Train to the end; False if a signal stopped it."""
        found = self._checkpoint()
        self.seed = self._seed(found)
        torch.manual_seed(self.seed)
        self.sources = self._open()
        samples = {"split": self.split, "count": len(self.sources[self.split]), "full_scale": self.options.full_scale}
        self.kept["evaluated_on"] = samples
        model = self._model(self.sources["train"])
        loader = self._loader(self.sources["train"])
        tracker = self._tracker(found) if self.is_main else None
        with closing(tracker) if tracker else nullcontext():
            return self._run(found, model, loader, tracker)

    def _run(
        self, found: tuple[Path, State] | None, model: LightField, loader: TrainingLoader, tracker: Tracker | None
    ) -> bool:
        evaluation = self.sources[self.split]
        evaluator = Evaluator(
            model=model,
            source=FixedDraws(evaluation, evaluation.draw, derive_seed(self.seed, 2)),
            batch_size=max(1, loader.batch_size // 8),
            chunk=self.config.data.num_points,
            accelerator=self.accelerator,
        )
        self.monitor = Monitor(model, self.sources, evaluator, self.folder, self.seed, tracker)
        trainer = self._trainer(model, loader, tracker)
        if found:
            self._resume(trainer, *found)
        self.title = self._process_title(trainer.first_step) if self.is_main and self.options.rtpt else None
        self._begin(trainer)
        if trainer.first_step >= self.max_it:
            self.weights = found[0] if found else None
            return True
        self.weights = self.folder / LAST
        return trainer.run()

    def _checkpoint(self) -> tuple[Path, State] | None:
        if self.is_main:
            self.files.remove_partial_files()
        found = self.files.to_resume(self.max_it)
        self.accelerator.wait_for_everyone()
        self._say(f"continuing from {found[0]}" if found else f"no checkpoint {self.folder / LAST} yet, starting anew")
        return found

    def _seed(self, found: tuple[Path, State] | None) -> int:
        """Of the run. Raises CheckpointError if the checkpoint is of a run that learns something else."""
        asked = self.options.seed or 0
        saved, wanted = config_of(found[1], found[0]) if found else None, self.config.to_dict()
        if not found or saved is None:
            return asked
        path, state = found
        changes = config_differences(saved, wanted)
        for section, names in FREE.items():
            for values in (saved, wanted):
                values[section] = {key: value for key, value in values[section].items() if key not in names}
        if self.options.seed is not None:
            saved["--seed"], wanted["--seed"] = state["seed"], asked
        if differences := config_differences(saved, wanted):
            raise CheckpointError(
                f"{path}: of a run with another configuration:\n  " + "\n  ".join(differences) + "\nUndo the change "
                "to continue it, or copy config.yaml to another folder to start another run"
            )
        if changes:
            self._say("changed since then:\n  " + "\n  ".join(changes))
        return state["seed"]

    def _open(self) -> dict[str, Source]:
        """Evaluation and training data, by split."""
        options = self.options
        sources = {
            self.split: open_split(
                self.config.data, self.split, full_scale=options.full_scale, max_len=options.max_eval
            ),
            "train": open_split(self.config.data, "train"),
        }
        for split, source in sources.items():
            self._say(f"Initialized {self.config.data.dataset.upper()} {split} set, {len(source)} examples")
        return sources

    def _model(self, training: Source) -> LightField:
        arguments = self.config.model_arguments(training.render_range)
        self.record = RunRecord(
            paper="osrt",
            builder="osrt.models:build_model",
            arguments=arguments,
            data=self.config.to_dict()["data"],
            seed=self.seed,
            checkpoints={"file": LAST},
            inputs=inputs_of(training) if has_slots(arguments) else {},
        )
        model = self.record.build()
        model.checkpointing = self.options.checkpointing
        model.score_every = self.config.training.print_every
        process, count = self.accelerator.process_index, self.accelerator.num_processes
        model.noise = ShardedNoise(derive_seed(self.seed, 1), process, count)
        return model.to(self.accelerator.device)

    def _loader(self, training: Source) -> TrainingLoader:
        settings, processes = self.config.training, self.accelerator.num_processes
        batch_size, rest = divmod(settings.batch_size, processes * self.options.accumulate)
        if rest:
            raise ConfigError(
                f"training.batch_size {settings.batch_size} cannot be dealt out evenly to {processes} processes with "
                f"--accumulate {self.options.accumulate}: choose a multiple of {processes * self.options.accumulate}"
            )
        self._say(f"{processes} x {self.accelerator.device.type}, {settings.num_workers} data workers each")
        return training_loader(
            self.config.data,
            training,
            batch_size * self.options.accumulate,
            seed=self.seed,
            device=self.accelerator.device,
            process_index=self.accelerator.process_index,
            num_processes=processes,
            num_workers=settings.num_workers,
        )

    def _tracker(self, found: tuple[Path, State] | None) -> Tracker:
        """Of the main process, which also describes the run."""
        self.record.write(self.folder / "run.json")
        resumed_after = None
        if found and (done := iterations_of(found[1])) < self.max_it:
            resumed_after = done - 1  # where nothing is trained the log of later steps stays
        run_id = found[1].get("run_id") if found else None
        self.kept["run_id"] = run_id or (secrets.token_hex(4) if self.options.wandb else None)
        settings = None
        if self.options.wandb:
            name, config = self.folder.as_posix(), self.config.to_dict()
            settings = {"project": "srt", "name": name, "id": self.kept["run_id"], "config": config}
        return Tracker(self.folder, resumed_after, settings)

    def _process_title(self, first_step: int) -> Any:
        from rtpt import RTPT

        count = max(1, self.max_it - first_step)
        title = RTPT(name_initials=self.options.rtpt, experiment_name="OSRT", max_iterations=count)
        title.start()
        return title

    def _trainer(self, model: LightField, loader: TrainingLoader, tracker: Tracker | None) -> Trainer:
        settings = self.config.training
        self.model, self.loader = model, loader
        self.kept["run"] = self.record.to_dict()
        return Trainer(
            model=model,
            optimizer=torch.optim.Adam(model.parameters(), lr=self.config.training.peak_lr, fused=True),
            batches=lambda first: training_batches(loader, first),
            accelerator=self.accelerator,
            last_step=self.max_it - 1,
            checkpoints=self.files,
            checkpoint_every=self._is_due,
            seed=self.seed,
            schedule=self.rate_factor,
            accumulate=self.options.accumulate,
            hooks=[(1, self._after_step)],
            tracker=tracker,
            log_every=settings.print_every if settings.print_every > 0 else sys.maxsize,
            scalars_of=self._noted,
            extra_scalars=lambda: {"train/t": self._seconds()},
            extra_state=self.kept,
            remedy=REMEDY,
            show_progress=sys.stderr.isatty(),
            validate=self._validate if settings.validate_every > 0 else None,
            validate_every=settings.validate_every,
        )

    def _is_due(self, step: int) -> bool:
        """Whether a checkpoint comes after `step`."""
        intervals = (self.config.training.checkpoint_every, self.config.training.backup_every)
        return any(every > 0 and (step + 1) % every == 0 for every in intervals)

    def _noted(self, terms: Terms) -> Terms:
        self.terms = terms
        return under_train(terms)

    def _seconds(self) -> float:
        """That the run has taken, with what came before it was interrupted."""
        return self.seconds_before + time.perf_counter() - self.began

    def _resume(self, trainer: Trainer, path: Path, state: State) -> None:
        """Continue from a checkpoint of ours or of the original code."""
        is_original = original.is_original(state)
        if is_original:
            state = original.training_state(state, trainer.model, trainer.optimizer, path)
        trainer.resume(state, path)
        if self._selects_alike(state):
            self.kept |= {name: state.get(name) for name in ("best", "best_it")}
        self.seconds_before = state["seconds"]
        if self.is_main and is_original:
            same_file(path, self.folder / ORIGINAL)  # which ours will replace
        elif self.is_main and path.name == LAST:
            self.files.complete(trainer.first_step, is_best=self.kept["best_it"] == trainer.first_step)
        metric = self.config.training.model_selection_metric
        best = "none yet" if self.kept["best"] is None else f"{self.kept['best']:.8f}"
        self._say(f"{trainer.first_step} iterations done; best {metric} so far: {best}")

    def _selects_alike(self, state: State) -> bool:
        """Whether a checkpoint's best value is one of the metric that this run selects by, on the same samples."""
        if "config" not in state:
            return True
        before, here = state["config"]["training"], self.config.to_dict()["training"]
        same_metric = all(before[key] == here[key] for key in ("model_selection_metric", "model_selection_mode"))
        return same_metric and state.get("evaluated_on", self.kept["evaluated_on"]) == self.kept["evaluated_on"]

    def _begin(self, trainer: Trainer) -> None:
        """Say what is trained, and do what comes before the first step."""
        first_step = trainer.first_step
        self._say(parameter_counts(self.model))
        if self.options.print_model:
            self._say(f"{self.model}\n{parameter_table(self.model)}")
        if first_step >= self.max_it:
            self._say(f"the run has all {self.max_it} iterations")
        if self.options.evaluate_now:
            scores = self.monitor.evaluate(first_step)
            if first_step < self.max_it and self._is_best(scores, first_step):
                trainer.save(first_step - 1)
        elif first_step < self.max_it and self.config.training.validate_every > 0:
            self._metric(self.monitor.evaluator.score(num_batches=1))  # whether it exists is known before any step
        if self.options.visualise_now and self.is_main:
            self.monitor.draw(first_step)

    def _after_step(self, step: int, batch: Batch) -> None:
        """On the main process."""
        settings = self.config.training
        if settings.print_every > 0 and step % settings.print_every == 0:
            values = {**self.terms, "lr": settings.peak_lr * self.rate_factor(step)}
            shown = ", ".join(f"{name}={float(values[name]):.6f}" for name in values if name != "loss")
            epoch = step // self.loader.batches_per_epoch
            elapsed = timedelta(seconds=self._seconds())
            line = f"{self.folder} t={elapsed} [Epoch {epoch:02d}] it={step:03d}, loss={float(self.terms['loss']):.4f}"
            tqdm.write(f"{line} [{shown}]")
        if self.title:
            self.title.step()
        if settings.visualize_every > 0 and (step + 1) % settings.visualize_every == 0:
            self.monitor.draw(step + 1)

    def _validate(self, step: int) -> bool:
        """Evaluate after `step`, and see whether the model is the best so far; never ends the training."""
        self._is_best(self.monitor.evaluate(step + 1), step + 1)
        return False

    def _is_best(self, scores: dict[str, float], iterations: int) -> bool:
        """Whether the model is the best so far; if so, the state that is saved next is, too."""
        value = self._metric(scores)
        if not is_better(value, self.kept["best"], self.config.training.model_selection_mode):
            return False
        self.kept |= {"best": value, "best_it": iterations}
        self.files.note_best()
        self._say(f"New best model ({self.config.training.model_selection_metric} {value:.6f})")
        return True

    def _metric(self, scores: dict[str, float]) -> float:
        """The score that selects the best model. Raises ConfigError if there is none of that name."""
        name = self.config.training.model_selection_metric
        if name not in scores:
            raise ConfigError(
                f"training.model_selection_metric: no score {name!r} of this model on these data, only "
                f"{', '.join(scores)}{nearest(name, scores)}"
            )
        return scores[name]

    def _say(self, what: object) -> None:
        if self.is_main:
            tqdm.write(str(what))
