"""Everything that an experiment can be told: hyperparameters, which are saved with the run, and options of the run.

Nothing here imports torch, so that `--help` and a misspelt flag are answered at once.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from clevrtex.framework.commandline import UsageError, check_type

if TYPE_CHECKING:
    import torch
    from torch import nn

    from core.training.schedules import Schedule


def option(default: Any, what: str = "", *, least: float | None = None, above: float | None = None) -> Any:
    """A flag with its default, the line that --help prints, and its least value or what it has to exceed.

    A subclass that changes the default inherits the rest.
    """
    given = {"what": what or None, "least": least, "above": above}
    settings = {"metadata": {key: value for key, value in given.items() if value is not None}}
    return (
        field(default_factory=default.copy, **settings)
        if isinstance(default, list)
        else field(default=default, **settings)
    )


@dataclass(kw_only=True)
class Hyperparameters:
    """What every experiment has; each model adds its own. `name` is the model's in folders."""

    name: ClassVar[str]
    model: ClassVar[str]
    """Where its class is, as "module:Class" below clevrtex.models; it takes what `model_arguments` gives."""
    masks_have_background: ClassVar[bool] = True

    tag: str = option("test", "name of the run, the last part of its folder")
    seed: int | str | None = option(None, "a number; random for a drawn one, which is recorded; None for 0")
    data: str = option("clevr-crop-(128,128)", "data set, as in clevrtex:full-crop-(128,128) or tetrominoes")
    batch_size: int = option(32, "pictures per process and step", least=1)
    grad_clip: float | None = option(None, "largest L2 norm of the gradient; None: not clipped", above=0)
    optim: str = option("adam", "adam, adamax, rmsprop or sgd, with -m0.9 for momentum, -nest for Nesterov's")
    lr: str | None = option(None, "schedule: decay(WARMUP,HALF_LIFE[,RATE]), warm(WARMUP), plateau, '' for none")
    max_steps: int = option(500_000, "optimiser steps", least=1)
    epochs: int | None = option(None, "passes over the training data, in place of max_steps", least=1)
    learning_rate: float = option(1e-4, "learning rate that the schedule multiplies", above=0)

    def model_arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """What the model takes, builtin values only, for pictures of height and width `image_size`."""
        raise NotImplementedError

    def schedules(self) -> dict[str, str]:
        """Attributes of the model that change during training, with their schedule strings."""
        return {}

    def build_optimizer(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """The optimiser of `--optim` and `--learning_rate`."""
        from clevrtex.framework.optim import build_optimizer

        return build_optimizer(model, self.optim, self.learning_rate)

    def range_tested(self) -> str:
        """The optimiser whose learning rates `--tune` tries. Raises ValueError if it cannot."""
        return self.optim

    def rate_schedule(self, steps_per_epoch: int) -> "Schedule":
        """The factor of the learning rates that `--lr` describes. Raises ValueError."""
        from clevrtex.framework.optim import Plateau, parse_rate

        return Plateau(self.learning_rate) if self.lr == "plateau" else parse_rate(self.lr)

    def checkpointing_arguments(self) -> dict[str, Any]:
        """Those that make the model recompute activations. Raises ValueError if it cannot."""
        raise ValueError(f"--checkpointing: {self.name} does not recompute activations; leave it out")


@dataclass(kw_only=True)
class RunOptions:
    """How to run, on which devices and how much of it to keep.

    What changes what is learnt (`weights`, `limit`, `data_root`, `precision` and `amp`, and `acc` and the number of
    processes, which multiply the batch) is no hyperparameter, but stands in checkpoints beside them, and a run goes on
    by itself only with the same.
    """

    dir: str | None = option(None, "folder for results in place of ./output")
    data_root: str | None = option(None, "folder of the data in place of ./ool_data and ./data")
    resume: bool | str | None = option(
        None,
        "None: go on with an unfinished run of this command; True: newest checkpoint; False: start anew; or a path",
    )
    with_hparams: bool = option(True, "resumed with the checkpoint's hyperparameters, but for the flags given now")
    weights: str | None = option(None, "checkpoint, ours or the original's, to take the model's weights from")
    limit: int | float | None = option(
        None, "batches per epoch, of training and of validation; below 1 a fraction", above=0
    )
    gpus: int | list[int] | str | None = option(
        None, "how many (-1: all; 0: CPU), or which, as in [0,2]; on the CPU processes"
    )
    ddp: bool = option(False, "one process per GPU, gradients averaged, batch norm synchronised")
    nodes: int = option(1, "machines; start the same command with torchrun on each", least=1)
    dp: bool = option(False, "not offered: use --ddp")
    workers: int | str = option(-1, "processes that read data; -1 chooses, no: none")
    precision: str = option("fp32", "fp32, fp32-fast, bf16 or fp16")
    amp: bool | int | None = option(None, "16-bit floats: fp16 on GPUs, bf16 on the CPU")
    acc: int | None = option(None, "batches that one optimiser step sums gradients of", least=1)
    drop_last_batch: bool = option(False, "for the original's commands: training batches are always complete here")
    checkpoint_every: int = option(1000, "steps between checkpoints within an epoch", least=1)
    log_every: int = option(50, "steps between scalars", least=1)
    resident: bool = option(False, "keep all training pictures on the device")
    checkpointing: bool = option(False, "recompute activations: less memory, more time, same numbers")
    compile: bool = option(False, "torch.compile the model's parts")
    benchmark: bool = option(True, "let cudnn choose its algorithms by trial")
    no_stop: bool = option(True, "False: stop when the monitored value has not fallen for 5 validations")
    save_top: int = option(1, "how many of the best checkpoints to keep", least=1)
    track_grads: bool = option(False, "log the L2 norm of every parameter's gradient")
    cpu_metrics: bool = option(False, "score the validation on the CPU")
    quiet: bool = option(False, "one line per validation in place of progress bars")
    gc: int = option(0, "run Python's garbage collector every so many steps, and only then; 0 leaves it alone", least=0)
    detect_anomaly: bool | None = option(None, "let autograd name the operation that first gave NaN; slow")
    profile: bool | str | None = option(None, "write where the time of a few steps goes to profile.out")
    tune: bool | None = option(None, "only a learning-rate range test, printed and saved; no training")
    nowatermark: bool = option(False, "do not keep an archive of the sources in the run's folder")
    resckpt: str | None = option(None, "for the original's commands; without effect there, too")
    as_original: bool = option(False, "validation scores with the original's mistakes, under names of their own")


def describe(command: Callable[..., Any], *groups: type) -> Callable[..., Any]:
    """Give `command`, which takes any flags, the signature and the help of the fields of `groups`."""
    parameters, lines = [], []
    for group in groups:
        hints = get_type_hints(group)
        for entry in fields(group):
            default = entry.default_factory() if entry.default is MISSING else entry.default
            parameters.append(
                inspect.Parameter(
                    entry.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[entry.name]
                )
            )
            lines.append(f"    {entry.name}: {what_is(group, entry.name)}")
    command.__signature__ = inspect.Signature(parameters)
    command.__doc__ = f"{command.__doc__}\n\nArgs:\n" + "\n".join(lines)
    return command


def what_is(group: type, name: str) -> str:
    """The line that --help prints about an option."""
    what = _described(group, name).get("what")
    if what is None:
        raise AttributeError(f"{group.__name__}.{name} does not say what it is")
    return what


def _described(group: type, name: str) -> dict[str, Any]:
    """What `option` was told of a flag, by `group` or the nearest of its ancestors that says it."""
    found: dict[str, Any] = {}
    for ancestor in group.__mro__:
        entry = getattr(ancestor, "__dataclass_fields__", {}).get(name)
        found = {**(entry.metadata if entry is not None else {}), **found}
    return found


def fill(group: type, flags: dict[str, Any]) -> Any:
    """An instance of `group` from those of `flags` that it has.

    Raises UsageError for a value of another type or out of range.
    """
    hints = get_type_hints(group)
    own = {entry.name for entry in fields(group)}
    values = {name: check_type(name, value, hints[name]) for name, value in flags.items() if name in own}
    for name, value in values.items():
        if isinstance(value, int | float):
            _check_range(name, value, _described(group, name))
    return group(**values)


def _check_range(name: str, value: float, described: dict[str, Any]) -> None:
    least, above = described.get("least"), described.get("above")
    if least is not None and not value >= least:
        raise UsageError(f"--{name} {value}: expected at least {least}")
    if above is not None and not value > above:
        raise UsageError(f"--{name} {value}: expected more than {above}")


def settle_length(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags of a command, in which --max_steps also takes the place of an experiment's or a checkpoint's epochs.

    Raises UsageError if it asks for so many epochs, too.
    """
    if "max_steps" not in flags:
        return flags
    if flags.get("epochs") is not None:
        raise UsageError(f"--max_steps {flags['max_steps']} and --epochs {flags['epochs']}: give one of them")
    return {**flags, "epochs": None}
