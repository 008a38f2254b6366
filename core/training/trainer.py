"""One training loop for all papers: step-based, resumable at any moment, the same on any number of processes."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm

from core.nn.noise import ShardedNoise, derive_seed
from core.training.checkpoint import CheckpointError, State, load_weights
from core.training.schedules import Schedule, constant
from core.training.signals import StopSignals
from core.training.tracking import Tracker

Terms = dict[str, Tensor]
Controller = Callable[[int, Terms], None]
"""Called after every optimiser step with the step and its terms, averaged over processes."""
Hook = Callable[[int, dict[str, Tensor]], None]
"""Called every so many steps with the step and its batch, on the main process only."""
Validation = Callable[[int], bool]
"""Called on every process after every so many steps and the last; True ends the training. A checkpoint follows."""


@runtime_checkable
class Checkpoints(Protocol):
    """Where a training keeps its states."""

    def save(self, step: int, state: State) -> Path: ...

    def steps(self) -> list[int]: ...

    def path(self, step: int) -> Path: ...


def under_train(terms: Terms) -> Terms:
    """The scalars that are logged of the terms of a loss: all, as `train/<term>`."""
    return {f"train/{name}": value for name, value in terms.items()}


STEPS_BETWEEN_AGREEMENTS = 16
SECONDS_BETWEEN_AGREEMENTS = 5.0
"""How often several processes ask each other whether one of them was told to stop: after so many steps, or sooner if
steps are slow."""


class NonFiniteLoss(Exception):
    """The loss, or its gradient, is no longer a number; no checkpoint was written since."""


class _Loss(nn.Module):
    """The loss inside a module's forward, where DDP and autocast see it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor], step: int) -> Terms:
        return self.model.loss(batch, step)


@dataclass
class Trainer:
    """Trains `model` (with `loss(batch, step) -> terms`) on the batches of a loader up to and including `last_step`.

    Everything random follows from `seed`: step s of process r starts from the seed (seed, s, r). `batches(s)` gives the
    batches from step s on. `schedule` multiplies the learning rates that the optimiser came with, or gives one factor
    for each of its parameter groups. `checkpoint_every` so many steps, or after those of which it says so, there is a
    checkpoint. Every `log_every` steps the terms of that step are logged, or with `log_means` their means since the
    last time. With `accumulate` > 1 a batch goes through in that many equal parts, which see the same `model.noise` as
    the whole. `extra_state`, or what it gives for a step, is stored in every checkpoint. `remedy` is
    what the user is asked to do about a loss that is not finite.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Callable[[int], Iterator[dict[str, Tensor]]]
    accelerator: Accelerator
    last_step: int
    checkpoints: Checkpoints
    checkpoint_every: int | Callable[[int], bool]
    seed: int = 0
    schedule: Schedule = constant
    clip_norm: float | None = None
    accumulate: int = 1
    controllers: Sequence[Controller] = ()
    hooks: Sequence[tuple[int, Hook]] = ()
    tracker: Tracker | None = None
    log_every: int = 100
    log_means: bool = False
    scalars_of: Callable[[Terms], Mapping[str, Tensor]] = under_train
    extra_scalars: Callable[[], dict[str, Any]] = dict
    extra_state: State | Callable[[int], State] = field(default_factory=dict)
    remedy: str = "Lower the learning rate, lengthen the warm-up or clip the gradient, and continue from it by name"
    show_progress: bool = True
    first_step: int = 0
    validate: Validation | None = None
    validate_every: int = 1

    def __post_init__(self) -> None:
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._loss = self.accelerator.prepare_model(_Loss(self.model.to(self.accelerator.device)))
        self._optimizer = self.accelerator.prepare_optimizer(self.optimizer)
        self._main = self.accelerator.is_main_process
        self._first_bad = torch.full((), -1, device=self.accelerator.device)
        self.grad_norm = torch.zeros(())
        self._seconds_before = 0.0
        self._began = time.perf_counter()
        self._agreed_at, self._next_agreement, self._agreement_steps = self._began, 0, 1
        self._since_log: Terms = {}
        self._steps_since_log = 0

    def run(self) -> bool:
        """Train. True when `last_step` is done, False when a signal stopped the run; both leave a checkpoint."""
        self.model.train()
        self._began = self._agreed_at = time.perf_counter()
        self._next_agreement = self.first_step
        steps = range(self.first_step, self.last_step + 1)
        bar = tqdm(total=self.last_step + 1, initial=self.first_step, disable=not (self._main and self.show_progress))
        with StopSignals() as signals, bar:
            for step, batch in zip(steps, self.batches(self.first_step)):
                terms = self.step(step, batch)
                if self.log_means:
                    self._accumulate(terms)
                if step % self.log_every == 0:
                    self._log(step, self._means() if self.log_means else terms, bar)
                for every, hook in self.hooks:
                    if self._main and step % every == 0:
                        hook(step, batch)
                bar.update()
                stop = self._told_to_stop(signals, step)
                is_last = step == self.last_step
                validated = self.validate is not None and (is_last or (step + 1) % self.validate_every == 0)
                done = (validated and self.validate(step)) or is_last
                if stop or done or validated or self._is_checkpoint(step):
                    self.save(step)
                if done:
                    break
                if stop:
                    return False
        return True

    def _is_checkpoint(self, step: int) -> bool:
        if callable(self.checkpoint_every):
            return self.checkpoint_every(step)
        return step > 0 and step % self.checkpoint_every == 0

    def step(self, step: int, batch: dict[str, Tensor]) -> Terms:
        """One optimiser step; returns the terms of the loss, averaged over processes if a controller needs them."""
        torch.manual_seed(derive_seed(self.seed, step, self.accelerator.process_index))
        factors = self.schedule(step)
        if not isinstance(factors, Sequence):
            factors = [factors] * len(self._base_rates)
        for group, rate, factor in zip(self.optimizer.param_groups, self._base_rates, factors, strict=True):
            group["lr"] = rate * factor
        self._optimizer.zero_grad(set_to_none=True)
        terms = self._forward_backward(step, batch)
        self.accelerator.unscale_gradients()
        parameters = [value for value in self.model.parameters() if value.grad is not None]
        self.grad_norm = get_total_norm([value.grad for value in parameters])
        self._note_if_bad(step, terms)  # before clipping, which spreads what is not finite over all gradients
        if self.clip_norm is not None:
            clip_grads_with_norm_(parameters, self.clip_norm, self.grad_norm)
        self._optimizer.step()
        if self.controllers:
            terms = self._average(terms)
            for controller in self.controllers:
                controller(step, terms)
        return terms

    def _forward_backward(self, step: int, batch: dict[str, Tensor]) -> Terms:
        if self.accumulate == 1:
            terms = self._loss(batch, step)
            self.accelerator.backward(terms["loss"])
            return {name: value.detach() for name, value in terms.items()}
        total: Terms = {}
        size, rest = divmod(len(next(iter(batch.values()))), self.accumulate)
        if rest:
            raise ValueError(f"a batch of {size * self.accumulate + rest} has no {self.accumulate} equal parts")
        noise = getattr(self.model, "noise", None)
        for part in range(self.accumulate):
            if isinstance(noise, ShardedNoise):
                self.model.noise = noise.part(part, self.accumulate)
            rows = slice(part * size, (part + 1) * size)
            last = part == self.accumulate - 1
            with nullcontext() if last else self.accelerator.no_sync(self._loss):
                terms = self._loss({key: value[rows] for key, value in batch.items()}, step)
                self.accelerator.backward(terms["loss"] / self.accumulate)
            for name, value in terms.items():
                total[name] = total.get(name, 0) + value.detach() / self.accumulate
        if isinstance(noise, ShardedNoise):
            self.model.noise = noise
        return total

    def _average(self, terms: Terms) -> Terms:
        if self.accelerator.num_processes == 1:
            return terms
        values = self.accelerator.reduce(torch.stack(list(terms.values())), "mean")
        return dict(zip(terms, values))

    def _accumulate(self, terms: Terms) -> None:
        self._since_log = {name: self._since_log.get(name, 0) + value for name, value in terms.items()}
        self._steps_since_log += 1

    def _means(self) -> Terms:
        means = {name: value / self._steps_since_log for name, value in self._since_log.items()}
        self._since_log, self._steps_since_log = {}, 0
        return means

    def _log(self, step: int, terms: Terms, bar: tqdm) -> None:
        self._stop_if_bad()
        terms = self._average(terms)
        if self._main:
            row = {**self.scalars_of(terms), **self.extra_scalars(), "train/lr": self.optimizer.param_groups[0]["lr"]}
            if self.tracker:
                self.tracker.scalars(step, row)
            if self.show_progress:
                bar.set_postfix(loss=f"{terms['loss'].item():.4g}")

    def _note_if_bad(self, step: int, terms: Terms) -> None:
        """Note the first step without a finite loss and gradient, on the device; on the CPU stop before the update."""
        good = torch.isfinite(terms["loss"])
        if self.accelerator.scaler is None:
            good = good & torch.isfinite(self.grad_norm)
        self._first_bad = torch.where((self._first_bad < 0) & ~good, step, self._first_bad)
        if self._first_bad.device.type == "cpu":
            self._stop_if_bad()

    def _stop_if_bad(self) -> None:
        step = int(self.accelerator.reduce(self._first_bad, "max") if self._main_device_is_gpu() else self._first_bad)
        if step < 0:
            self._stop_if_scaled_away()
            return
        named = self.model.named_parameters()
        bad = [name for name, value in named if value.grad is not None and not value.grad.isfinite().all()]
        where = f"; the first parameter with a non-finite gradient is {bad[0]}" if bad else ""
        if self.tracker:
            self.tracker.flush()  # what waits shows how it came to this
        kept = self.checkpoints.steps()
        last = f"The newest checkpoint is {self.checkpoints.path(kept[-1])}" if kept else "There is no checkpoint yet"
        raise NonFiniteLoss(f"step {step}: the loss or its gradient is not finite{where}. {last}. {self.remedy}")

    def _stop_if_scaled_away(self) -> None:
        """fp16 lowers the loss's scale and skips the step when a gradient overflows; for ever, if all of them do."""
        scaler = self.accelerator.scaler
        if scaler is not None and (scale := scaler.get_scale()) < 1:
            raise NonFiniteLoss(
                f"the gradient overflows fp16 whatever the loss is scaled with (by {scale:.3g} at last), so that every "
                "step is skipped. Use bf16, which has the range of float32"
            )

    def _main_device_is_gpu(self) -> bool:
        return self.accelerator.num_processes > 1 and self._first_bad.device.type != "cpu"

    def _told_to_stop(self, signals: StopSignals, step: int) -> bool:
        if self.accelerator.num_processes == 1:
            told = signals.received is not None
        elif step < self._next_agreement:
            return False
        else:
            told = self._agree(signals, step)
        if told and self._main:
            name = signals.received.name if signals.received else "a signal to another process"
            print(f"{name}: saving after step {step} and stopping; the same command continues", file=sys.stderr)
        return told

    def _agree(self, signals: StopSignals, step: int) -> bool:
        """Whether any process was told to stop; all set the same step at which they ask again."""
        now = time.perf_counter()
        per_step = (now - self._agreed_at) / self._agreement_steps
        own = torch.tensor([float(signals.received is not None), per_step], device=self.accelerator.device)
        told, per_step = self.accelerator.reduce(own, "mean").tolist()
        self._agreed_at = now
        self._agreement_steps = max(1, min(STEPS_BETWEEN_AGREEMENTS, int(SECONDS_BETWEEN_AGREEMENTS / per_step)))
        self._next_agreement = step + self._agreement_steps
        return told > 0

    def save(self, step: int) -> None:
        """Checkpoint after `step`: everything that the next step depends on, from every process."""
        self._stop_if_bad()
        generators = _generator_states(self.accelerator)
        if self._since_log:
            self._since_log = self._average(self._since_log)
        if not self._main:
            return
        if self.tracker:
            self.tracker.flush()
        scaler = self.accelerator.scaler
        state = {
            "step": step,
            "seconds": self._seconds_before + time.perf_counter() - self._began,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "generators": generators,
            "seed": self.seed,
            "since_log": {"steps": self._steps_since_log, "terms": self._since_log},
            **(self.extra_state(step) if callable(self.extra_state) else self.extra_state),
        }
        self.checkpoints.save(step, state)

    def resume(self, state: State, source: Any) -> None:
        """Continue after the step of a checkpoint that `save` wrote. Raises CheckpointError for weights alone."""
        if missing := [name for name in ("model", "optimizer", "step") if name not in state]:
            raise CheckpointError(f"{source}: holds no {' and no '.join(missing)}, so no training continues from it")
        load_weights(self.model, state["model"], source)
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler") and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if generators := state.get("generators"):
            _restore_generators(generators, self.accelerator)
        if since_log := state.get("since_log"):
            self._steps_since_log = since_log["steps"]
            self._since_log = {key: value.to(self.accelerator.device) for key, value in since_log["terms"].items()}
        self._seconds_before = state.get("seconds", 0.0)
        self.first_step = state["step"] + 1


def _generator_states(accelerator: Accelerator) -> list[dict[str, Tensor]]:
    """The states of torch's global generators of every process, in the order of the processes.

    Steps seed themselves and do not depend on them; what runs between steps may.
    """
    own = {"cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    if accelerator.num_processes == 1:
        return [own]
    everyone: list[dict[str, Tensor]] = [{}] * accelerator.num_processes
    torch.distributed.all_gather_object(everyone, own)
    return everyone


def _restore_generators(states: list[dict[str, Tensor]], accelerator: Accelerator) -> None:
    if accelerator.process_index >= len(states):
        return
    own = states[accelerator.process_index]
    torch.set_rng_state(own["cpu"])
    if accelerator.device.type == "cuda" and "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"], accelerator.device)
