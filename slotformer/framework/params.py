"""Configurations as Python files with a class `SlotFormerParams(BaseParams)`, in the idiom of SlotFormer's trainer.

Every attribute of the class is a key. `key_all = [a, b, c]` and `key_t = [5, 10]` make `key` a until epoch 5, b until
epoch 10, c from then on.
"""

import ast
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from core.spelling import nearest

CLASSES = ("SlotFormerParams", "SlotAttentionParams")
"""What the class of a file may be called: SlotFormer's files say the first, SlotDiffusion's the second."""

_overrides: ContextVar[Mapping[str, Any]] = ContextVar("overrides")


class ParamsError(ValueError):
    """A configuration cannot be used; the message names the file and the key, and what to do."""


class MissingKey(ParamsError, AttributeError):
    """A configuration lacks a key; to `hasattr`, and `getattr` with a default, an attribute that is not there."""


LEAST = {
    "gpus": 1,
    "max_epochs": 1,
    "print_iter": 1,
    "eval_interval": 1,
    "train_batch_size": 1,
    "val_batch_size": 1,
    "grad_accum_steps": 1,
    "n_sample_frames": 1,
    "frame_offset": 1,
    "video_len": 1,
    "fps": 1,
    "save_interval": 0,
    "n_samples": 0,
    "num_workers": 0,
    "seed": 0,
    "lr": 0,
    "weight_decay": 0,
    "loss_decay_pct": 0,
    "tau_decay_pct": 0,
}
SHARES = ("dropout", "warmup_steps_pct")
"""From 0 to below 1."""


class _ClassBody(dict):
    """The body of a class in which keys that the command line sets keep that value, for what follows from them, too."""

    def __setitem__(self, key: str, value: Any) -> None:
        overrides = _overrides.get({})
        super().__setitem__(key, _merged(value, overrides[key]) if key in overrides else value)


class _Overridable(type):
    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...]) -> dict[str, Any]:
        return _ClassBody() if bases else {}


class BaseParams(metaclass=_Overridable):
    """The keys that every configuration has, and their defaults.

    `gpus` is the number of processes that the file is written for; batch sizes are per process, intervals in epochs,
    `print_iter` in steps. `clip_grad` <= 0 turns clipping off. `n_samples` is how many samples are shown in the log.
    """

    project: str = "NERV"
    gpus: int = 1
    ddp_unused_params: bool = False
    max_epochs: int = 100
    san_check_val_step: int = 2
    print_iter: int = 50
    save_interval: float = 1.0
    eval_interval: int = 1
    save_epoch_end: bool = False
    n_samples: int = 5
    optimizer: str = "Adam"
    momentum: float = 0.9
    lr: float = 1e-3
    weight_decay: float = 0.0
    clip_grad: float = -1.0
    data_root: str = ""
    train_batch_size: int = 64
    val_batch_size: int = 128
    num_workers: int = 8
    grad_accum_steps: int = 1
    seed: int = 0

    def __init__(self, values: Mapping[str, Any] | None = None):
        for key, value in (values or {}).items():
            setattr(self, key, value)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            raise AttributeError(key)
        raise MissingKey(f"the configuration has no key {key!r}, which is needed: add it, or give --set {key}=VALUE")

    def __contains__(self, key: str) -> bool:
        return hasattr(self, key)

    def get(self, key: str, default: Any = None) -> Any:
        """As that of a dict."""
        return getattr(self, key, default)

    def to_dict(self) -> dict[str, Any]:
        """All keys and values, in builtin types."""
        return {key: _plain(getattr(self, key)) for key in sorted(_keys(self))}

    def at_epoch(self, epoch: int) -> dict[str, Any]:
        """The values in `epoch`, counted from 0, of those keys that vary."""
        values = {}
        for key in sorted(key.removesuffix("_all") for key in _keys(self) if _varies(self, key)):
            passed = sum(epoch >= time for time in getattr(self, f"{key}_t"))
            values[key] = getattr(self, f"{key}_all")[passed]
        return values


def _keys(params: BaseParams) -> set[str]:
    names = {name for name in dir(params) if not name.startswith("_")}
    return {name for name in names if not callable(getattr(params, name))}


def _varies(params: BaseParams, key: str) -> bool:
    return key.endswith("_all") and hasattr(params, key.removesuffix("_all") + "_t")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _merged(value: Any, override: Any) -> Any:
    """`override` in place of `value`, or its entries in place of those of a dict."""
    if not (isinstance(value, Mapping) and isinstance(override, Mapping)):
        return override
    return {**value, **{key: _merged(value.get(key), entry) for key, entry in override.items()}}


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`lr=2e-4`, `slot_dict.num_slots=5` and the like as a nested dict. Raises ParamsError for a word without `=`."""
    overrides: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not (equals and all(part.isidentifier() for part in path.split("."))):
            raise ParamsError(f"--set {word!r}: expected KEY=VALUE or DICT.KEY=VALUE")
        place = overrides
        *outer, last = path.split(".")
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ParamsError(f"--set {word!r}: {part} is given a value of its own, too")
        place[last] = _literal(text)
    return overrides


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def file_of(path: str | Path) -> Path:
    """The configuration file `path`, which may be given without `.py`. Raises ParamsError if it is not there."""
    path = Path(path)
    file = path if path.suffix == ".py" else path.with_name(path.name + ".py")
    if file.is_file():
        return file
    beside = [other.name for other in file.parent.glob("*.py")] if file.parent.is_dir() else []
    raise ParamsError(f"--params {path}: no such file{nearest(file.name, beside)}")


def load_params(path: str | Path, keys: type, overrides: Mapping[str, Any] | None = None) -> BaseParams:
    """The configuration in the file `path`, with `overrides` in place of what it says.

    `keys` is a class whose annotations are the keys that the task knows beside those of BaseParams. Values that the
    file computes from an overridden one follow it. The file is run: it must be one that you trust. Raises ParamsError.
    """
    file, overrides = file_of(path), overrides or {}
    token = _overrides.set(overrides)
    try:
        found = _run(file)
    finally:
        _overrides.reset(token)
    params = found()
    for key, value in overrides.items():
        if key not in vars(found):
            setattr(params, key, _merged(getattr(params, key, None), value))
    check_params(params, keys, str(file))
    for key, value in params.at_epoch(0).items():
        setattr(params, key, value)
    return params


def _run(file: Path) -> type[BaseParams]:
    spec = importlib.util.spec_from_file_location(f"params.{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.path.append(str(file.parent))
    try:
        with _as_trainer_library():
            spec.loader.exec_module(module)
    except Exception as error:
        raise ParamsError(f"{file}: cannot be run ({type(error).__name__}: {error})") from error
    finally:
        sys.path[:] = before
    found = next((getattr(module, name) for name in CLASSES if hasattr(module, name)), None)
    if not (isinstance(found, type) and issubclass(found, BaseParams)):
        raise ParamsError(f"{file}: expected a class {CLASSES[0]}(BaseParams) in it")
    return found


@contextmanager
def _as_trainer_library() -> Iterator[None]:
    """`from nerv.training import BaseParams`, as files written for the original say, gives ours."""
    library, training = types.ModuleType("nerv"), types.ModuleType("nerv.training")
    library.training, training.BaseParams = training, BaseParams
    ours = {"nerv": library, "nerv.training": training}
    before = {name: sys.modules.get(name) for name in ours}
    sys.modules.update(ours)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def check_params(params: BaseParams, keys: type, source: str) -> None:
    """Raises ParamsError for a key that nobody reads, and for a value of another type or out of its range."""
    hints = {**get_type_hints(BaseParams), **get_type_hints(keys)}
    for key in sorted(_keys(params)):
        base = key.removesuffix("_all") if _varies(params, key) else key
        if base.endswith("_t") and f"{base.removesuffix('_t')}_all" in params:
            _check_times(params, base.removesuffix("_t"), source)
        elif base not in hints:
            raise ParamsError(
                f"{source}: no key {key!r}{nearest(key, hints)} (a variable of your own may be called _{key})"
            )
        else:
            values = getattr(params, key)
            for value in values if base != key else [values]:
                if not _fits(value, hints[base]):
                    raise ParamsError(
                        f"{source}: {key} is {value!r}, a {type(value).__name__}; expected {_name(hints[base])}"
                    )
                if base in LEAST and not value >= LEAST[base]:
                    raise ParamsError(f"{source}: {key} is {value!r}, expected at least {LEAST[base]}")
                if base in SHARES and not 0 <= value < 1:
                    raise ParamsError(f"{source}: {key} is {value!r}, expected at least 0 and less than 1")


def _check_times(params: BaseParams, key: str, source: str) -> None:
    times, values = getattr(params, f"{key}_t"), getattr(params, f"{key}_all")
    if len(values) != len(times) + 1 or list(times) != sorted(times):
        raise ParamsError(
            f"{source}: {key}_all holds {len(values)} values and {key}_t {list(times)}; expected ascending epochs, one "
            "fewer than values"
        )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type of an annotation; whole numbers are floats, too, and lists are tuples."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    kind = get_origin(hint) or hint
    if kind in (tuple, list):
        inner = [choice for choice in get_args(hint) if choice is not Ellipsis]
        fixed = kind is tuple and inner and Ellipsis not in get_args(hint)
        if not isinstance(value, tuple | list) or (fixed and len(value) != len(inner)):
            return False
        hints = inner if fixed else inner[:1] * len(value)
        return all(_fits(entry, entry_hint) for entry, entry_hint in zip(value, hints))
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("NoneType", "None")
