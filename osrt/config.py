"""Configurations of runs: one YAML file per run, with the keys of OSRT's published ones, in the folder of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import yaml

from core.spelling import nearest
from osrt.options import complaint

DATASETS = ("clevr3d", "obsurf_msn", "osrt", "msn", "nmr")
"""`osrt` is MultiShapeNet with masks, `msn` the same without."""
MODES = ("maximize", "minimize")
AT_LEAST_ONE = ("num_points", "batch_size", "max_it", "decay_it", "num_coarse_samples")


class ConfigError(ValueError):
    """A configuration cannot be used; the message names the file and the key, and what to do."""


@dataclass(frozen=True)
class DataConfig:
    """Which rays of which scenes. `kwargs` are arguments of the reader, or `shuffle` of MultiShapeNet."""

    dataset: str
    path: str | None = None
    """data/<dataset> unless given."""
    num_points: int = 2048
    """Target rays per scene."""
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.path or f"data/{self.dataset}")


@dataclass(frozen=True)
class ModelConfig:
    """Encoder and decoder by name, and their arguments; see osrt/models."""

    encoder: str
    decoder: str
    encoder_kwargs: dict[str, Any] = field(default_factory=dict)
    decoder_kwargs: dict[str, Any] = field(default_factory=dict)
    use_default_init: bool = False
    """PyTorch's initialisation of linear layers in place of the paper's."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how often, counted in iterations; 0 or less turns a regular event off."""

    batch_size: int
    """Of all processes together."""
    model_selection_metric: str
    model_selection_mode: str
    print_every: int
    checkpoint_every: int
    validate_every: int
    visualize_every: int
    backup_every: int
    num_workers: int = 1
    max_it: int = 1_000_000
    peak_lr: float = 1e-4
    """Of the learning rate, after `lr_warmup` steps."""
    lr_warmup: int = 2500
    decay_it: int = 4_000_000
    num_coarse_samples: int | None = None
    num_fine_samples: int | None = None


@dataclass(frozen=True)
class Config:
    """The whole file."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def model_arguments(self, render_range: tuple[float, float]) -> dict[str, Any]:
        """Arguments of osrt.models.build_model, for data with this range of distances from a camera."""
        rendering = {"min_dist": render_range[0], "max_dist": render_range[1]}
        for name in ("num_coarse_samples", "num_fine_samples"):
            if (value := getattr(self.training, name)) is not None:
                rendering[name] = value
        return {**asdict(self.model), "render_kwargs": rendering}


def load_config(
    path: str | Path, overrides: Sequence[str] = (), trained: Mapping[str, Mapping[str, Any]] | None = None
) -> Config:
    """The configuration in the file `path`, with `overrides` such as `data.num_points=512`. Raises ConfigError.

    trained: the sections that a checkpoint was trained with. They stand for the file's, but for the place of the data.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        beside = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file{nearest(str(path), beside)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected the sections {', '.join(_names(Config))}, found {values!r}")
    if trained is not None:
        values = {name: dict(section) for name, section in trained.items()} | {"data": _placed(values, trained)}
    for word in overrides:
        _override(values, word)
    config = _parse(Config, values, "", str(path))
    _check(config, str(path))
    return config


def _placed(values: Mapping[str, Any], trained: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The data that were trained on, where `values` say that they lie, if they do."""
    given = values.get("data")
    place = given.get("path") if isinstance(given, Mapping) else None
    return dict(trained["data"]) | ({} if place is None else {"path": place})


def _override(values: dict[str, Any], word: str) -> None:
    name, equals, text = word.partition("=")
    *outer, last = name.split(".")
    if not equals or not all(part.isidentifier() for part in (*outer, last)):
        raise ConfigError(f"--set {word!r}: expected SECTION.KEY=VALUE, as in data.num_points=512")
    place = values
    for part in outer:
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise ConfigError(f"--set {word!r}: {part} is no section but {place!r}")
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {word!r}: the value cannot be read as YAML ({error})") from error


def _names(section: type) -> list[str]:
    return [entry.name for entry in fields(section)]


def _parse(section: type, values: Any, where: str, source: str) -> Any:
    """The dataclass `section` with these values, their names and types checked."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: {where or 'the file'} is {values!r}, expected {', '.join(_names(section))}")
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in _names(section):
            raise ConfigError(f"{source}: no key '{prefix}{key}'{nearest(str(key), _names(section))}")
    hints, parsed = get_type_hints(section), {}
    for entry in fields(section):
        name, hint = prefix + entry.name, hints[entry.name]
        is_empty_dict = get_origin(hint) is dict and values.get(entry.name) is None
        if entry.name not in values or is_empty_dict:
            if entry.default is MISSING and entry.default_factory is MISSING:
                raise ConfigError(f"{source}: {name} is missing")
            continue
        value = _number(values[entry.name]) if hint is float else values[entry.name]
        if is_dataclass(hint):
            parsed[entry.name] = _parse(hint, value, name, source)
        elif wrong := complaint(value, hint):
            raise ConfigError(f"{source}: {name} {wrong}")
        else:
            parsed[entry.name] = value
    return section(**parsed)


def _number(value: Any) -> Any:
    """YAML takes 1e-3, without a point, for a word."""
    try:
        return float(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else value
    except ValueError:
        return value


def _check(config: Config, source: str) -> None:
    data, training = config.data, config.training
    choices = (
        ("data.dataset", data.dataset, DATASETS),
        ("training.model_selection_mode", training.model_selection_mode, MODES),
    )
    for name, value, known in choices:
        if value not in known:
            raise ConfigError(f"{source}: {name} {value!r} is not one of {', '.join(known)}{nearest(value, known)}")
    for section in ("data", "training"):
        for name, value in asdict(getattr(config, section)).items():
            if name in AT_LEAST_ONE and value is not None and value < 1:
                raise ConfigError(f"{source}: {section}.{name} is {value}, expected at least 1")
    if not training.peak_lr > 0:
        raise ConfigError(f"{source}: training.peak_lr is {training.peak_lr}, expected more than 0")
    for name in ("num_workers", "lr_warmup"):
        if getattr(training, name) < 0:
            raise ConfigError(f"{source}: training.{name} is {getattr(training, name)}, expected at least 0")
