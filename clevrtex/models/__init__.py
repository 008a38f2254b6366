"""The benchmark's models, by where they are defined."""

import importlib
from typing import Any

from torch import nn


def build_model(path: str, arguments: dict[str, Any]) -> nn.Module:
    """The untrained model of the class "module:Name" below this package; lists, as JSON has them, become tuples."""
    module, _, name = path.partition(":")
    kind = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return kind(**{key: _tuples(value) for key, value in arguments.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
