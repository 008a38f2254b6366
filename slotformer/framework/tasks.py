"""The tasks of the training script, and what each of them must offer."""

import importlib
import inspect
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from core.data.loader import Batch, BatchSource
from core.spelling import nearest
from slotformer.framework.params import BaseParams, ParamsError


@runtime_checkable
class Method(Protocol):
    """How a model of a task is trained and shown, beside its loss. `params` is the configuration."""

    floor: float
    """Of the learning rate at the first step and at the end, as a share of `lr`."""
    fps: int
    """Of the videos."""

    def initialise(self, model: nn.Module) -> None:
        """Load the trained parts that a fresh run starts from."""

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """`params`, `lr` and a `name` for each group."""

    def before_step(self, model: nn.Module, step: int, num_steps: int) -> None:
        """Set what changes from step to step."""

    def scalars(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """What is logged beside the terms of the loss."""

    def videos(self, model: nn.Module) -> dict[str, Tensor]:
        """uint8 (T, 3, H, W) to look at, of whole videos of the validation split, or (3, H, W) of its pictures.

        And numbers found on the way, ().
        """


@runtime_checkable
class SampleMethod(Method, Protocol):
    """Of a model whose validation counts single answers: its scores take the place of the terms of the loss."""

    best_by: str
    """The score that chooses the best checkpoint; see `is_lower_better`."""

    def samples(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Values (n,) of single samples by the name of their score; n may differ between scores, and be 0."""


@runtime_checkable
class PreparingMethod(Method, Protocol):
    """Of a model that needs more for its training than its weights."""

    def prepare(self, model: nn.Module) -> None:
        """Give it that, whether it begins or continues."""


@runtime_checkable
class BatchMethod(Method, Protocol):
    """Of a model for which batches are looked at, or completed, before it learns from them."""

    def take(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch of a step as the model is to see it; all processes call this together."""


@runtime_checkable
class FollowingMethod(Method, Protocol):
    """Of a model to which something is done after the optimiser, such as averaging its weights."""

    def after_step(self, model: nn.Module) -> None:
        """Do it; after every step."""


@runtime_checkable
class Task(Protocol):
    """A package: `slotformer.base_slots` and its like. `SEES` is "images" or "videos", if its models see any."""

    Keys: type
    """Its annotations are the keys of the task's configurations."""

    def build_dataset(self, params: BaseParams) -> tuple[BatchSource, BatchSource]:
        """For training and for validation."""

    def build_model(self, params: BaseParams) -> nn.Module:
        """Untrained; reads no file."""

    def build_method(self, params: BaseParams) -> Method: ...


def is_lower_better(score: str) -> bool:
    """Whether lower values of a score are better: those of losses."""
    return score.endswith("loss")


def inputs_of(task: ModuleType, params: BaseParams, model: nn.Module) -> dict[str, Any]:
    """What a run record says of the inputs: the task's `SEES`, and their size, if the model divides them into masks."""
    if not (hasattr(task, "SEES") and hasattr(model, "segment")):
        return {}
    return {"kind": task.SEES, "size": list(params.resolution)}


def rebuild_model(task: str, params: Mapping[str, Any]) -> nn.Module:
    """The untrained model of a run record: `task` is the package, `params` what `BaseParams.to_dict` gave."""
    return importlib.import_module(task).build_model(BaseParams(params))


def arguments_of(model: type) -> dict[str, inspect.Parameter]:
    """Of the constructor; where it ends in `**options`, also those of the next constructor that it hands them to."""
    found: dict[str, inspect.Parameter] = {}
    for ancestor in model.__mro__:
        if "__init__" not in vars(ancestor):
            continue
        _, *parameters = inspect.signature(ancestor.__init__).parameters.values()
        named = [parameter for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        found = {parameter.name: parameter for parameter in named} | found
        if len(named) == len(parameters):
            break
    return found


def construct(
    model: type[nn.Module], params: BaseParams, dicts: Sequence[str], ignored: Collection[str] = (), **others: Any
) -> nn.Module:
    """`model` from the entries of the configuration's `dicts`, its keys of the same name as arguments, and `others`.

    Entries that are `ignored` say something else. Raises ParamsError for an entry that is no argument of the model, and
    for one that it lacks.
    """
    known = arguments_of(model)
    arguments = {key: params.get(key) for key in known if key in params} | others
    for name in dicts:
        for key, value in params.get(name, {}).items():
            if key in ignored:
                continue
            if key not in known:
                raise ParamsError(f"{name}: {model.__name__} has no {key!r}{nearest(key, known)}")
            arguments[key] = value
    needed = (key for key, parameter in known.items() if parameter.default is inspect.Parameter.empty)
    if missing := [key for key in needed if key not in arguments]:
        raise ParamsError(f"{model.__name__} needs {', '.join(missing)}: add it to the configuration")
    return model(**{key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()})
