"""Parameter names of the original ClevrTex code and ours, from tables of beginnings."""

from collections.abc import Iterable, Mapping

from torch import Tensor

Table = Iterable[tuple[str, str]]
"""Pairs (ours, theirs) of a name or its beginning; the longest that fits a parameter wins."""


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's own names: checkpoints of the original's training runs write `model.` before them."""
    return {key.removeprefix("model."): value for key, value in state.items()}


def rename(key: str, table: Table, source: int, model: str) -> str:
    """`key` of column `source` (0 ours, 1 theirs) in the other column. Raises ValueError on a name not in the table."""
    fitting = [pair for pair in table if key.startswith(pair[source])]
    if not fitting:
        raise ValueError(f"{key!r} is no parameter of {model}: is this a checkpoint of another model?")
    pair = max(fitting, key=lambda pair: len(pair[source]))
    return pair[1 - source] + key[len(pair[source]) :]
